"""Database servers: real logins and the ending of sessions, one module per wire protocol."""
