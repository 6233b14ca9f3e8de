"""The script of docs/api.md does what it says."""

import os
import re
import threading
from pathlib import Path

import pytest

from reflux.artifacts import Artifacts
from reflux.client import Client
from reflux.local.stack import Stack
from tests.environment import ROOT
from tests.integration.by_hand import HandWorker, eventually


def test_the_script_of_the_guide(
    client: Client, control_plane: Stack, worker: HandWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    assert found
    script = found[1].replace("http://127.0.0.1:8400", control_plane.api_url)
    (tmp_path / "rows.csv").write_text("prompt,completion\nWrite x.,int x;\n")
    store = Artifacts(f"file://{control_plane.folder}/artifacts")

    def work() -> None:
        run = eventually(lambda: client.runs(recipe="finetune", limit=1).data, 20, "the script made no run")[0]
        store.put(f"runs/{run.id}/report.md", b"# A run")
        worker.work(run.id)

    before = Path.cwd()
    os.chdir(tmp_path)
    working = threading.Thread(target=work)
    working.start()
    try:
        exec(compile(script, "docs/api.md", "exec"), {"key": control_plane.keys["operator"]})
    finally:
        os.chdir(before)
        working.join()
    told = capsys.readouterr().out
    assert "1 run_created queued" in told
    assert "report.md 7" in told
