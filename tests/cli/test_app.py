"""The command line starts fast: what is imported, and that the list of commands is theirs."""

import inspect
import subprocess
import sys

import pytest
import typer

from dpmix.cli.app import COMMANDS, application


def test_the_list_of_commands_has_the_first_lines_of_their_own_help():
    app = application(COMMANDS)
    own = {
        command.callback.__name__: inspect.getdoc(command.callback)
        for command in app.registered_commands
    }
    own |= {group.typer_instance.info.name: group.typer_instance.info.help
            for group in app.registered_groups}  # fmt: skip
    assert {*own} == {*COMMANDS}
    for name, (_, line) in COMMANDS.items():
        assert " ".join(own[name].split("\n\n")[0].split()) == line
    listed = typer.main.get_command(application([])).commands
    assert [*listed] == [*COMMANDS]


@pytest.mark.parametrize("words", [
    ["--help"], ["--version"], ["recipes", "list"], ["recipes", "--help"], ["trian"], ["--epsilon"],
])  # fmt: skip
def test_what_needs_no_torch_does_not_load_it(words):
    code = (
        "import sys; sys.argv = ['dpmix', *sys.argv[1:]]\n"
        "from dpmix.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules, 'loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
