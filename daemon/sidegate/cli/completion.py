"""The verb completion: scripts that have a shell ask this command line how a word may go on.

The words come from click (https://click.palletsprojects.com/en/stable/shell-completion/); the scripts are our own, for
words with = and : in bash, and for descriptions with commas in fish.
"""

import os
from typing import ClassVar

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete, add_completion_class, split_arg_string

_BASH = r"""# Completion of sidegate for bash 4.4 and later: source this, or put it into
# /usr/share/bash-completion/completions/sidegate
_sidegate() {
    local line=${COMP_LINE:0:COMP_POINT} reply type value word cut=''
    reply=$(COMP_LINE=$line _SIDEGATE_COMPLETE=bash_complete "$1" 2>/dev/null) || return 0
    # Where = and : end a word for bash, it replaces only what comes after them.
    word=${line##*[[:space:]]}
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && cut=${word%"${word##*=}"}
    [[ $COMP_WORDBREAKS == *:* && ${word#"$cut"} == *:* ]] && cut=${word%"${word##*:}"}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("${value#"$cut"}")
                [[ $value == *= ]] && compopt -o nospace
                ;;
        esac
    done <<< "$reply"
    return 0
}
complete -o nosort -F _sidegate sidegate
"""

_ZSH = r"""#compdef sidegate
# Completion of sidegate for zsh: source this after compinit, or put it as _sidegate into a directory of $fpath.
_sidegate() {
    local -a reply values shown open
    local type value help answer
    (( $+commands[sidegate] )) || return 1
    answer=$(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) _SIDEGATE_COMPLETE=zsh_complete sidegate 2>/dev/null)
    reply=("${(@f)answer}")
    for type value help in $reply; do
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain)
                if [[ $value == *= ]]; then
                    open+=("$value")
                else
                    values+=("$value")
                    [[ $help == _ ]] && shown+=("$value") || shown+=("$value  -- $help")
                fi
                ;;
        esac
    done
    (( $#open )) && compadd -U -S '' -V unsorted -a open
    (( $#values )) && compadd -U -l -V unsorted -d shown -a values
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _sidegate "$@"
else
    compdef _sidegate sidegate
fi
"""

_FISH = r"""# Completion of sidegate for fish: source this, or put it into ~/.config/fish/completions/sidegate.fish
function _sidegate
    set -l words (commandline -cp)
    set -l word (commandline -ct)
    set -l reply (env _SIDEGATE_COMPLETE=fish_complete COMP_WORDS="$words" COMP_CWORD="$word" sidegate 2>/dev/null)
    for line in $reply
        set -l part (string split -m 1 , -- $line)
        switch $part[1]
            case dir
                __fish_complete_directories $word
            case file
                __fish_complete_path $word
            case plain
                echo $part[2]
        end
    end
end
complete --no-files --command sidegate --arguments "(_sidegate)"
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class _Bash(BashComplete):
    """Reads the line itself: bash would give `https=redirect` as three words."""

    name: ClassVar[str] = "bash"

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE")
        if line is None:  # click's own script, as of earlier versions
            return super().get_completion_args()
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1].isspace() else ""
        return words[1:], incomplete


class _Zsh(ZshComplete):
    """Its words stand as they are: our script does not give them to _describe."""

    def format_completion(self, item: click.shell_completion.CompletionItem) -> str:
        return f"{item.type}\n{item.value}\n{item.help or '_'}"


def answer_shells() -> None:
    """Have click answer the scripts above."""
    add_completion_class(_Bash, "bash")
    add_completion_class(_Zsh, "zsh")
    add_completion_class(FishComplete, "fish")


@click.command()
@click.argument("shell", type=click.Choice(list(SCRIPTS)), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print a script that completes verbs, options, names and values in your shell.

    Names of apps and databases, variables' keys, domains, addresses and the like come from the daemon, within a second;
    where it does not answer there are none of them.

    \b
    bash, this session:   source <(sidegate completion bash)
    bash, for everybody:  sidegate completion bash > /usr/share/bash-completion/completions/sidegate
    zsh, in .zshrc:       source <(sidegate completion zsh)     (after compinit)
    fish:                 sidegate completion fish > ~/.config/fish/completions/sidegate.fish

    \b
    Example:
      sidegate completion bash
    """
    click.echo(SCRIPTS[shell], nl=False)


COMMANDS = (completion,)
