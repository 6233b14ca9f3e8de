"""`reflux score` as a linter: exit codes, JSON, reasons at their lines; no server."""

import json
import os
import subprocess
import sys
from pathlib import Path

from reflux.records import Answer, Verdict

GOOD = """\
#include <stdint.h>
#include <stddef.h>

/**
 * @brief Open gates of the schedule's entry.
 * @param gcl gate control list
 * @param priority traffic class
 * @return 1 if the gate is open
 */
static uint8_t gate_is_open(const uint8_t *gcl, uint8_t priority)
{
    uint8_t open = 0U;

    if ((gcl != NULL) && (priority < 8U))
    {
        open = (uint8_t)((gcl[0] >> priority) & 1U);
    }
    return open;
}

/** @brief Schedule one gate. @param gcl list @return state */
uint8_t schedule_gate(const uint8_t *gcl)
{
    return gate_is_open(gcl, 3U);
}
"""
BAD = "int gate(int pcp)\n{\n    goto out;\nout:\n    return pcp +;\n}\n"


def score(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from reflux.cli import main; main()", "score", *map(str, arguments)]
    env = os.environ | {"COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def test_good_code_passes_and_bad_code_is_shown_at_its_lines(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.c", tmp_path / "bad.c"
    good.write_text(GOOD)
    bad.write_text(BAD)
    assert score(good, "--domain", "tsn").returncode == 0
    both = score(good, bad, "--domain", "tsn")
    assert both.returncode == 1
    lines = both.stdout.splitlines()
    assert lines[lines.index("     3     goto out;") + 1].startswith("       -3.0 safety")
    assert "expected expression" in lines[lines.index("     5     return pcp +;") + 1]
    assert lines[-1].endswith("1 below 7")
    assert score(bad, "--min", "0").returncode == 0


def test_a_jsonl_of_answers_gives_a_verdict_a_line(tmp_path: Path) -> None:
    rows = [Answer(prompt_id=f"p{n}", prompt="a TSN gate", domain="tsn", text=text) for n, text in enumerate((GOOD, BAD))]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    answer = score(file, "--json")
    verdicts = [Verdict.model_validate(json.loads(line)) for line in answer.stdout.splitlines()]
    assert [verdict.compiles for verdict in verdicts] == [True, False]
    assert answer.returncode == 1


def test_a_team_s_headers_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "headers").mkdir()
    (tmp_path / "headers" / "team.h").write_text("typedef unsigned int team_id_t;\n")
    code = tmp_path / "own.c"
    code.write_text('#include "team.h"\nteam_id_t gate_of(team_id_t vlan) { return vlan & 7U; }\n')
    without, given = score(code, "--json", "--min", "0"), score(code, "--json", "--min", "0", "-I", tmp_path / "headers")
    assert not json.loads(without.stdout)["compiles"]
    assert json.loads(given.stdout)["compiles"]


def test_wrong_use_is_said_in_a_sentence(tmp_path: Path) -> None:
    missing = score(tmp_path / "none.c")
    assert (missing.returncode, "can't be read" in missing.stderr) == (2, True)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt_id": "x"}\n')
    assert "line 1" in score(broken).stderr
    assert "Traceback" not in missing.stderr + score(broken).stderr


def test_code_can_not_steer_the_terminal(tmp_path: Path) -> None:
    code = tmp_path / "bad.c"
    code.write_text("int f(int x)\n{\n    goto out; /* \x1b]0;owned\x07 \x9b31m :bug: [red] */\nout:\n    return x;\n}\n")
    shown = score(code).stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert "]0;owned\N{REPLACEMENT CHARACTER}" in shown
    assert ":bug: [red]" in shown
