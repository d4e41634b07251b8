"""The log: its formats, and one line for each transition.

Owns the formats and the messages about transitions. A line about a resource has an argument of type ``About``: as text
it reads ``namespace=... name=...``, as JSON it becomes fields. Only the composition root may call this module: it
listens to telemetry.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from worklease import telemetry
from worklease.rules.reasons import REPORTED, Severity, row_of
from worklease.telemetry import About

LAGGING: Final = 1.0
"""Seconds of event loop lag from which there is a line: every lease waited so long."""

_log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """Formats each line as a JSON object, with the resource that it is about as fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, About):
                line |= {
                    "namespace": argument.namespace,
                    "name": argument.name,
                    "uid": argument.uid,
                    "environment": argument.environment_id,
                    "work": argument.work_id,
                }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def listen(event: telemetry.TelemetryEvent) -> None:
    """Log a transition; a healthy fleet has none all day."""
    match event:
        case telemetry.BeatEnded() | telemetry.TurnGiven() | telemetry.StatusWrite() | telemetry.LeaseEnded():
            pass  # the first three are no transitions, and the condition already reports the end of a lease
        case telemetry.BucketMoved() | telemetry.LeaseTakenOver():
            pass  # the process itself logs each bucket, with its epoch
        case telemetry.LeftAlone(about, installation, message):
            _line(logging.WARNING, "left alone %s: %s", about, message, installation=installation)
        case telemetry.LoopLagged(seconds) if seconds >= LAGGING:
            _log.warning("the event loop stood still for %.1f s; every lease waited", seconds)
        case telemetry.LoopLagged():
            pass
        case telemetry.CallRefused(call, code):
            _log.debug("call refused call=%s code=%d", call.value, code, extra={"fields": {"code": code}})
        case telemetry.KopfEnded(why):
            _log.warning("kopf ended, restarting it: %s", why)
        case telemetry.ConditionChanged(type=kind) if kind in REPORTED:
            _log_condition(event)
        case telemetry.ConditionChanged():
            pass
        case telemetry.PoolChanged(about, reason, message, is_warning):
            level = logging.WARNING if is_warning else logging.INFO
            _line(level, "pool %s reason=%s: %s", about, reason, message, reason=reason)
        case telemetry.PoolPolled() | telemetry.ItemHandled() | telemetry.PoolSandboxStarted() | telemetry.PoolGone():
            pass  # polls are many; what became of an item is logged where it is known in full
        case telemetry.LeaseAdopted(about, rule):
            _line(logging.INFO, "lease adopted %s rule=%s", about, rule.value, rule=rule.value)
        case _:
            _log_sandbox(event)


def _log_condition(changed: telemetry.ConditionChanged) -> None:
    level = logging.WARNING if row_of(changed.reason).log is Severity.WARNING else logging.INFO
    fields = {"condition": changed.type, "status": changed.status, "reason": changed.reason}
    if changed.former_reason is not None:
        fields["formerReason"] = changed.former_reason
    _log.log(
        level,
        "%s=%s %s reason=%s: %s",
        changed.type,
        changed.status,
        changed.about,
        changed.reason,
        changed.message,
        extra={"fields": fields},
    )


def _log_sandbox(event: telemetry.SandboxEvent) -> None:
    match event:
        case telemetry.SandboxMade(about, pod, attempt):
            _line(logging.INFO, "sandbox created %s pod=%s attempt=%d", about, pod, attempt, pod=pod, attempt=attempt)
        case telemetry.SandboxEnded(about, pod, cause, message):
            _line(
                logging.INFO, "sandbox ended %s pod=%s reason=%s: %s", about, pod, cause, message, pod=pod, reason=cause
            )
        case telemetry.DeletionAsked(about, pod, cause, grace):
            words = "deleting sandbox %s pod=%s reason=%s grace=%g"
            _line(logging.INFO, words, about, pod, cause, grace, pod=pod, reason=cause, grace=grace)
        case telemetry.DeletionRefused(about, pod, message):
            _line(logging.WARNING, "pod not deleted, retrying %s pod=%s: %s", about, pod, message, pod=pod)
        case telemetry.DrainNotAnnounced(about, pod, message):
            words = "worker not asked to finish, deleting its pod instead %s pod=%s: %s"
            _line(logging.WARNING, words, about, pod, message, pod=pod)
        case telemetry.SandboxGone(about, pod):
            _line(logging.INFO, "sandbox gone %s pod=%s", about, pod, pod=pod)
        case telemetry.PodIgnored(about, pod, message):
            _line(logging.WARNING, "pod ignored %s pod=%s: %s", about, pod, message, pod=pod)
        case telemetry.StopEnded(about, force, is_acknowledged, message) if is_acknowledged:
            _line(logging.INFO, "stop acknowledged %s force=%s: %s", about, force, message, force=force)
        case telemetry.StopEnded(about, force, _, message):
            words = "stop not acknowledged, retrying %s force=%s: %s"
            _line(logging.WARNING, words, about, force, message, force=force)
        case telemetry.Orphaned(about, message):
            _line(logging.WARNING, "finalizer removed with something left %s: %s", about, message)


def _line(level: int, words: str, *arguments: object, **fields: object) -> None:
    named: Mapping[str, object] = fields
    _log.log(level, words, *arguments, extra={"fields": named})
