/* Both ends of the WebSocket measurement, so that neither is slower than what stands between them.
 *
 *   websocket echo ADDRESS PORT                                 takes upgrades and sends every frame back
 *   websocket load ADDRESS PORT PATH CONNECTIONS SECONDS        one frame in flight per connection; prints round trips
 *                                                               per second, or fails at the first wrong byte
 *
 * IPv4. RFC 6455 as far as the two need it: text frames of 32 bytes, masked by the client. The key is the one of the
 * RFC's section 1.3, so the answer to it is a constant.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { PAYLOAD = 32, MASKED = 2 + 4 + PAYLOAD, PLAIN = 2 + PAYLOAD, ROOM = 4096, MOST = 65536 };

static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==";
static const char ACCEPT[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const uint8_t MASK[4] = {0x37, 0xfa, 0x21, 0x3d};

struct connection {
  int open;
  size_t held;
  uint8_t bytes[ROOM];
};
static struct connection connections[MOST];

static void fail(const char *what) {
  fprintf(stderr, "websocket: %s: %s\n", what, errno ? strerror(errno) : "not as expected");
  exit(1);
}

static struct sockaddr_in address_of(const char *host, const char *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  if (inet_pton(AF_INET, host, &address.sin_addr) != 1) fail("address");
  return address;
}

static void send_all(int fd, const void *bytes, size_t count) {
  /* What is sent is small and the other end reads: a socket buffer that is full is a fault. */
  if (send(fd, bytes, count, MSG_NOSIGNAL) != (ssize_t)count) fail("send");
}

static void no_delay(int fd) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void watch(int poll, int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

/* --- echo ---------------------------------------------------------------------------------------------------------- */

/* Answer what is whole; returns how many bytes of it were used. */
static size_t answer(int fd, struct connection *c) {
  size_t used = 0, filled = 0;
  uint8_t out[ROOM];
  if (!c->open) {
    uint8_t *end = memmem(c->bytes, c->held, "\r\n\r\n", 4);
    if (!end) return 0;
    c->open = 1;
    send_all(fd, ACCEPT, sizeof ACCEPT - 1);
    used = (size_t)(end + 4 - c->bytes);
  }
  for (; c->held - used >= MASKED; used += MASKED, filled += PLAIN) {
    const uint8_t *frame = c->bytes + used;
    if (frame[0] != 0x81 || frame[1] != (0x80 | PAYLOAD)) return c->held + 1;
    out[filled] = 0x81, out[filled + 1] = PAYLOAD;
    for (int i = 0; i < PAYLOAD; i++) out[filled + 2 + i] = frame[6 + i] ^ frame[2 + i % 4];
  }
  if (filled) send_all(fd, out, filled);
  return used;
}

static void echo(const char *host, const char *port) {
  struct sockaddr_in address = address_of(host, port);
  int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) fail("bind");
  watch(poll, listener);
  for (;;) {
    struct epoll_event events[256];
    int count = epoll_wait(poll, events, 256, -1);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (client < 0) continue;
        if (client >= MOST) fail("too many connections");
        connections[client].open = 0, connections[client].held = 0;
        no_delay(client);
        watch(poll, client);
        continue;
      }
      struct connection *c = &connections[fd];
      ssize_t got = recv(fd, c->bytes + c->held, ROOM - c->held, 0);
      if (got < 0 && errno == EAGAIN) continue;
      size_t used = 0;
      if (got > 0) {
        c->held += (size_t)got;
        used = answer(fd, c);
      }
      if (got <= 0 || used > c->held) {
        close(fd);
        continue;
      }
      memmove(c->bytes, c->bytes + used, c->held - used);
      c->held -= used;
    }
  }
}

/* --- load ---------------------------------------------------------------------------------------------------------- */

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int upgraded(const struct sockaddr_in *address, const char *path) {
  char request[512], head[ROOM];
  size_t held = 0;
  struct timeval patience = {.tv_sec = 5};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(fd, (const struct sockaddr *)address, sizeof *address)) fail("connect");
  no_delay(fd);
  int length = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", path, KEY);
  send_all(fd, request, (size_t)length);
  while (!memmem(head, held, "\r\n\r\n", 4)) {
    ssize_t got = held < ROOM ? recv(fd, head + held, ROOM - held, 0) : 0;
    if (got <= 0) fail("no answer to the upgrade");
    held += (size_t)got;
  }
  if (held < 12 || memcmp(head, "HTTP/1.1 101", 12)) fail("the upgrade was refused");
  return fd;
}

static void load(const char *host, const char *port, const char *path, int count, double seconds) {
  struct sockaddr_in address = address_of(host, port);
  int poll = epoll_create1(0);
  uint8_t frame[MASKED] = {0x81, 0x80 | PAYLOAD, MASK[0], MASK[1], MASK[2], MASK[3]}, expected[PLAIN] = {0x81, PAYLOAD};
  for (int i = 0; i < PAYLOAD; i++) {
    expected[2 + i] = (uint8_t)('a' + i % 26);
    frame[6 + i] = expected[2 + i] ^ MASK[i % 4];
  }
  int *all = calloc((size_t)count, sizeof *all);
  for (int i = 0; i < count; i++) {
    watch(poll, all[i] = upgraded(&address, path));
    if (all[i] >= MOST) fail("too many connections");
  }
  long trips = 0;
  double began = now(), end = began + seconds, time = began;
  for (int i = 0; i < count; i++) send_all(all[i], frame, sizeof frame);
  while (time < end) {
    struct epoll_event events[256];
    int ready = epoll_wait(poll, events, 256, 1000);
    if (!ready) fail("nothing came back within a second");
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd;
      struct connection *c = &connections[fd];
      ssize_t got = recv(fd, c->bytes + c->held, PLAIN - c->held, MSG_DONTWAIT);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) fail("a connection ended");
      if ((c->held += (size_t)got) < PLAIN) continue;
      errno = 0;
      if (memcmp(c->bytes, expected, PLAIN)) fail("a frame");
      c->held = 0;
      trips++;
      send_all(fd, frame, sizeof frame);
    }
    time = now();
  }
  printf("%.1f\n", (double)trips / (time - began));
}

int main(int count, char **words) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (count == 4 && !strcmp(words[1], "echo")) {
    echo(words[2], words[3]);
  } else if (count == 7 && !strcmp(words[1], "load")) {
    load(words[2], words[3], words[4], atoi(words[5]), atof(words[6]));
  } else {
    fprintf(stderr, "usage: websocket echo ADDRESS PORT | load ADDRESS PORT PATH CONNECTIONS SECONDS\n");
    return 2;
  }
  return 0;
}
