"""convnext-dense: commands by name, help at once, and choices that are those of the modules that know them."""

import importlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from convnext_dense.cli import demo
from convnext_dense.cli.command_line import FORMAT_NAMES, TRACKER_NAMES, parser_of
from convnext_dense.cli.main import COMMANDS, main, module_of
from convnext_dense.config.reading import read_config
from convnext_dense.errors import UserError
from convnext_dense.shipped import find_config

ROOT = Path(__file__).parents[2]


def start(*arguments, cwd=None):
    command = [sys.executable, "-m", "convnext_dense", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    )


def test_the_overview_has_every_command():
    done = start("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert len(done.stdout.splitlines()) <= 24
    assert start().returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy(name):
    code = (
        "import sys\nfrom convnext_dense.cli.main import main\n"
        f"try:\n    main([{name!r}, '--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: convnext-dense {name} ")


def test_help_takes_less_than_a_second_of_processor_time():
    seconds = []
    for _ in range(3):
        before = os.times()
        assert start("train", "--help").returncode == 0
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 1


def test_wrong_commands_are_said():
    done = start("trainn")
    assert done.returncode == 2
    assert done.stderr == "Error: there is no command 'trainn'. Did you mean train?\n"
    assert "convnext-dense --help lists all" in start("xyzzy").stderr
    assert start("--version").stdout.count(".") == 2


def test_every_tool_is_a_command():
    tools = {path.stem.replace("_", "-") for path in (ROOT / "tools").glob("*.py")}
    assert tools - {"write-docs"} == set(COMMANDS) - {"demo", "completion"}


def test_choices_are_those_of_the_package():
    from convnext_dense.checkpoints import WRITABLE
    from convnext_dense.checkpoints.zoo import TASKS
    from convnext_dense.cli import check_dataset, convert_checkpoint, describe, export, infer, serve, zoo
    from convnext_dense.data import formats
    from convnext_dense.data.checks import inspection
    from convnext_dense.description import TABLES
    from convnext_dense.engine import trackers
    from convnext_dense.export import quantising, tracing
    from convnext_dense.inference import Tiles
    from convnext_dense.serving.limits import Limits

    assert list(FORMAT_NAMES) == formats.FORMAT_NAMES
    assert TRACKER_NAMES == trackers.TRACKER_NAMES
    assert list(convert_checkpoint.LAYOUTS) == list(WRITABLE)
    assert list(describe.TABLE_NAMES) == list(TABLES)
    assert zoo.TASKS == TASKS
    assert (export.FORMATS, export.MAX_LOSS) == (tracing.FORMATS, quantising.MAX_LOSS)
    assert check_dataset.NUM_OPENED == inspection.NUM_OPENED
    assert Tiles.overlap == infer.OVERLAP
    assert (
        Limits.max_bytes,
        Limits.max_pixels,
        Limits.per_second,
    ) == (serve.MAX_MB * 2**20, serve.MAX_PIXELS, serve.RATE)


def test_a_command_ends_with_its_own_usage(capsys):
    with pytest.raises(SystemExit) as end:
        main(["report"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: convnext-dense report ")
    assert "give CONFIG and CHECKPOINT, a WORK_DIR, or --compare" in error


def test_a_command_runs_anywhere_by_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["describe", "finetune/mask_rcnn_atto"])
    assert capsys.readouterr().out.startswith("finetune/mask_rcnn_atto: MaskRCNN on convnext_dense.ConvNeXt")
    main(["describe", "mask_rcnn_convnext_t_3x"])
    out = capsys.readouterr().out
    assert "arXiv:2201.03545v2 Table 3" in out or "46.2" in out


def test_options_are_mmengines():
    parser = parser_of(importlib.import_module("convnext_dense.cli.test"))
    args = parser.parse_args(["c.py", "w.pth", "--cfg-options", "a.b=[1,2]", "c=x", "+d=1e-3"])
    assert args.cfg_options == {"a.b": [1, 2], "c": "x", "+d": 1e-3}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command_and_option(shell):
    done = start("completion", shell)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout
    for option in ("--cfg-options", "--early-stop", "--int8", "--compare"):
        assert option in done.stdout
    assert dict(bash="-o default", zsh=":CKPT:_files")[shell] in done.stdout


def test_bash_completes(tmp_path):
    script = tmp_path / "completion.bash"
    script.write_text(start("completion", "bash").stdout)
    code = f"""source {script}
        COMP_WORDS=(convnext-dense tr); COMP_CWORD=1; _shtab_convnext_dense convnext-dense tr convnext-dense
        echo "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["train"], done.stderr
    code = code.replace("(convnext-dense tr); COMP_CWORD=1", "(convnext-dense check --overlay); COMP_CWORD=2")
    done = subprocess.run(["bash", "-c", code.replace(" tr ", " --overlay ")], capture_output=True, text=True)
    assert done.stdout.split() == ["--overlay"], done.stderr


STEPS = {
    (): ["make-shapes", "make-shapes", "train", "infer", "test", "train", "infer", "test"],
    ("--segmentation",): ["make-shapes", "train", "infer", "test"],
}


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("arguments", STEPS)
def test_the_demo_does_its_steps_in_order(arguments, num_processes, tmp_path, monkeypatch, capsys):
    started = []

    def open_instead(command, environment, output):
        if environment.get("RANK", "0") == "0":
            started.append(list(command))
        else:
            assert command == started[-1]
        if command[0] == "make-shapes":
            for folder in ("shapes/val2017", "shapes_ade/images/validation", "shapes_crops/val/star"):
                (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        if command[0] == "train":
            folder = tmp_path / "work_dirs" / command[1].removeprefix("demo/")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "last_checkpoint").write_text("work_dirs/last.pth")
        if command[0] == "infer":
            assert command[2] == "work_dirs/last.pth"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_num_processes", lambda: num_processes)
    monkeypatch.setattr(demo, "_open", open_instead)
    monkeypatch.setattr(demo, "_wait", lambda children: None)
    main(["demo", *arguments])
    assert [command[0] for command in started] == STEPS[arguments]
    out = capsys.readouterr().out
    assert "== 1/" in out
    assert "== Done. Checkpoint: work_dirs/last.pth" in out
    for name, *words in started:  # each is what its command takes
        args = parser_of(module_of(name)).parse_args(words)
        if name == "train":
            whole = read_config(find_config(args.config), args.cfg_options).train_dataloader.batch_size
            assert args.batch == (None if num_processes == 1 else whole / num_processes)
            assert args.launcher == ("none" if num_processes == 1 else "pytorch")


def test_commands_of_a_step_run_side_by_side_and_are_heard_one_after_the_other(capfd):
    demo._start([["completion", "zsh"], ["completion", "bash"]])
    assert capfd.readouterr().out == start("completion", "zsh").stdout + start("completion", "bash").stdout


def test_a_command_that_fails_beside_another_is_heard(capfd):
    with pytest.raises(SystemExit) as ended:
        demo._start([["completion", "zsh"], ["completion", "fish"]])
    assert ended.value.code == 2
    assert "'fish'" in capfd.readouterr().out


def test_files_of_the_current_folder_are_not_taken_for_modules(tmp_path, monkeypatch, capfd):
    (tmp_path / "random.py").write_text("raise SystemExit(5)")
    (tmp_path / "convnext_dense").mkdir()  # as in the folder that holds a clone
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    demo._start([["completion", "bash"]])
    assert "_shtab_convnext_dense" in capfd.readouterr().out


def test_a_killed_process_is_named(monkeypatch):
    monkeypatch.setattr(demo, "_MAIN", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match="ended by SIGKILL; the memory may be too small"):
        demo._start([["train-nothing"]])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_goes_on_to_the_processes_of_a_step(number):
    """Set by hand at first, because whoever runs the tests, such as nohup, may ignore it."""
    before = signal.signal(number, signal.SIG_DFL)
    script = (
        f"import signal, sys, time; signal.signal({int(number)}, lambda *_: sys.exit(42)); "
        "print('ready', flush=True); time.sleep(30)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
    timer.start()
    try:
        with pytest.raises(SystemExit) as ended:
            demo._wait([child])
    finally:
        timer.join()
        child.kill()
        child.stdout.close()
        signal.signal(number, before)
    assert ended.value.code == 42


def test_an_ignored_signal_stays_ignored():
    """nohup ignores SIGHUP: the demo goes on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGHUP))
    timer.start()
    try:
        demo._wait([child])
    finally:
        timer.join()
        signal.signal(signal.SIGHUP, before)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = start("make-shapes", tmp_path / "file" / "shapes", "--num-train", 1, "--num-val", 1)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "cannot be written (Not a directory)" in done.stderr


def test_notebooks_see_the_names_of_the_package():
    import convnext_dense

    assert {"train", "test", "report", "load_model"} <= set(dir(convnext_dense))


def test_a_failed_step_ends_the_demo_with_its_code(tmp_path):
    (tmp_path / "data").write_text("a file where a folder is needed")
    done = start("demo", cwd=tmp_path)
    assert done.returncode == 1
    assert "== 2/" not in done.stdout
