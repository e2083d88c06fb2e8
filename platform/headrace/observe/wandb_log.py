"""The run in Weights & Biases: online where there is a key, else in files that `wandb sync` can send later.

W&B gets its own thread. Its start and its farewell talk to a server and may take as long as their timeouts;
the console goes on meanwhile, and the training knows nothing of it.
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from headrace.observe.figures import one_line
from headrace.observe.history import History
from headrace.observe.mirror import held_out_values, step_values
from headrace.observe.records import CheckpointRecord, Record, number
from headrace.observe.redact import redacted
from headrace.observe.sheet import SHEET_FILE
from headrace.observe.summary import outcome

if TYPE_CHECKING:
    from wandb import Run, Settings

Rows: TypeAlias = "Sequence[Mapping[str, Any]]"

PROJECT = "headrace"
ID_FILE = "wandb_id"
START_TIMEOUT_SECONDS = 30
FINISH_TIMEOUT_SECONDS = 60

log = logging.getLogger(__name__)


class WandbLog:
    """A mirror that passes a run to W&B: its steps and evaluations as curves, its first samples as a picture, its
    checkpoints as artifacts that say where they lie, and at the end tables of what failed.

    A run folder is one W&B run, also over resumes: its id is kept in `<run>/wandb_id`. WANDB_MODE is
    obeyed, and so are WANDB_PROJECT, WANDB_ENTITY and the other variables that W&B reads. Of the machine
    nothing is sent but its utilisation: no environment, no command line. Nothing that goes wrong here is
    raised; it is logged once as a warning.

    Args:
        run: the run's folder.
        recipe: the resolved recipe; becomes the config.
        name: what W&B calls the run; the folder's name by default.
        group: of runs that belong together.
    """

    name = "W&B"

    def __init__(self, run: Path, recipe: Mapping[str, Any], name: str | None = None, group: str | None = None) -> None:
        self.resumed = (run / ID_FILE).exists()
        self._folder = run
        self._config = redacted(dict(recipe))
        self._called, self._group = name or run.resolve().name, group
        self._run: Run | None = None
        self._broken = False
        self._shown = self.resumed
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wandb")
        self._later(self._begin)

    def see(self, record: Record, history: History) -> None:
        """Pass on one record."""
        if record["kind"] == "step":
            self._later(lambda: self._log({"step": record["step"], **step_values(record)}))
            if not self._shown:
                self._shown = True
                self._later(self._show_samples)
        elif record["kind"] == "checkpoint":
            best = history.best is not None and history.best["step"] == record["step"]
            self._later(lambda: self._refer_to(record, best=best))
        elif record["kind"] == "evaluation":
            self._later(lambda: self._log({"step": record["step"], **held_out_values(record)}))
        elif record["kind"] == "restart":
            restart = {"step": record["step"], "restarts": len(history.restarts)}
            self._later(lambda: self._log(restart))
        elif record["kind"] == "start":
            facts = {name: record.get(name) for name in ("workers", "device", "parameters", "world")}
            self._later(lambda: self._configure(facts))

    def close(self, history: History) -> str:
        """Send what is left; return a line that says where the run can be looked at, or ""."""
        summary, tables = _summary(history), _tables(history)
        where: list[str] = []
        self._later(lambda: where.append(self._finish(summary, tables)))
        self._thread.shutdown()
        return where[0] if where else ""

    def _later(self, call: Callable[[], None]) -> None:
        self._thread.submit(self._guarded, call)

    def _guarded(self, call: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            call()
        except Exception as error:  # whatever W&B raises: the run matters more than its mirror
            self._broken = True
            log.warning("Weights & Biases is off for this run: %s", one_line(error))

    def _begin(self) -> None:
        try:
            import wandb
        except ImportError:
            self._broken = True
            log.warning("Weights & Biases is not installed: `pip install wandb`, or run with it turned off")
            return
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=START_TIMEOUT_SECONDS,
            finish_timeout=FINISH_TIMEOUT_SECONDS,
            disable_git=True,
            save_code=False,
            allow_val_change=True,  # a resume may run on other workers
            x_disable_meta=True,  # holds the command line and the user's name
        )
        wandb.setup(wandb.Settings(silent=True))
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key(settings) else "offline")
        try:
            self._run = self._init(mode, settings)
        except Exception as error:
            if mode != "online":
                raise
            log.warning("Weights & Biases cannot be reached, the run is kept in files: %s", one_line(error))
            wandb.teardown()  # or W&B holds the run's id as in use
            wandb.setup(wandb.Settings(silent=True))
            self._run = self._init("offline", settings)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _init(self, mode: str, settings: Settings) -> Run:
        import wandb

        return wandb.init(
            dir=self._folder,
            id=_id_of(self._folder),
            resume="allow",
            mode=mode,  # type: ignore[arg-type]  # WANDB_MODE: W&B checks it and says what is wrong
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or self._called,
            group=os.environ.get("WANDB_RUN_GROUP") or self._group,
            config=self._config,
            settings=settings,
        )

    def _configure(self, facts: dict[str, Any]) -> None:
        assert self._run is not None
        self._run.config["run"] = facts

    def _log(self, values: Mapping[str, float]) -> None:
        assert self._run is not None
        self._run.log(dict(values))

    def _show_samples(self) -> None:
        import wandb

        assert self._run is not None
        if (self._folder / SHEET_FILE).is_file():
            self._run.log({"samples": wandb.Image(str(self._folder / SHEET_FILE))})

    def _refer_to(self, record: CheckpointRecord, *, best: bool) -> None:
        """Make an artifact that says where a checkpoint lies; its bytes stay there."""
        import wandb

        assert self._run is not None
        path = str(record.get("path", ""))
        if "://" not in path and not (self._folder / path).exists():
            return  # another took its place meanwhile
        location = path if "://" in path else (self._folder / path).resolve().as_uri()
        artifact = wandb.Artifact(f"checkpoints-{self._run.id}", "model", metadata={"step": record["step"]})
        artifact.add_reference(location, name="checkpoint", checksum=False)
        self._run.log_artifact(artifact, aliases=[f"step-{record['step']}", *(["best"] if best else [])])

    def _finish(self, summary: dict[str, Any], tables: dict[str, Rows]) -> str:
        import wandb

        assert self._run is not None
        for name, rows in tables.items():
            columns: list[str | int] = list(rows[0])
            self._run.log({name: wandb.Table(columns=columns, data=[list(row.values()) for row in rows])})
        for name, value in summary.items():
            self._run.summary[name] = value
        mode, folder = self._run.settings.mode, self._run.settings.sync_dir
        url = self._run.url if mode == "online" else None
        self._run.finish(exit_code=0 if summary["outcome"] in ("finished", "stopped") else 1)
        if mode == "online":
            return str(url)
        return f"wandb sync {folder}" if mode == "offline" else ""


def _summary(history: History) -> dict[str, Any]:
    return {
        "outcome": outcome(history),
        "elapsed_seconds": history.elapsed_seconds,
        "failed_samples": history.failed_samples,
        "restarts": len(history.restarts),
    }


def _tables(history: History) -> dict[str, Rows]:
    """Return what is worth a table, by its name; none that would be empty."""
    tables: dict[str, Rows] = {
        "failed_samples": [
            {name: one_line(row.get(name, "")) for name in ("key", "shard", "reason", "message")}
            for row in history.failure_rows
        ],
        "steps_left_out": [
            {
                "step": refused["step"],
                "loss": number(refused, "loss"),
                "grad_norm": number(refused, "grad_norm"),
                "samples": ", ".join(one_line(key) for key in refused.get("keys") or []),
            }
            for refused in history.refused
        ],
    }
    return {name: rows for name, rows in tables.items() if rows}


def _id_of(run: Path) -> str:
    """Return the id under which W&B knows this folder; make one on first use."""
    file = run / ID_FILE
    if file.exists() and (known := file.read_text().strip()):
        return known
    run.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{secrets.token_hex(4)}\n")
    return file.read_text().strip()


def _has_key(settings: Settings) -> bool:
    """Tell whether W&B has a key for its server, in the environment or a netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    hosts = {"api.wandb.ai", urlsplit(settings.base_url).netloc}
    chosen = os.environ.get("WANDB_BASE_URL")
    if chosen:
        hosts = {urlsplit(chosen).netloc}
    for file in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        path = Path(file).expanduser() if file else None
        if path is not None and path.is_file():
            try:
                known = netrc.netrc(path)
            except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
                return False
            return any(known.authenticators(host) for host in hosts)
    return False
