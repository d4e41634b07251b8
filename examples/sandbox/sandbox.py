"""A sandbox that only runs the tools of one session: it sends no heartbeats, and neither polls nor stops its work item.

WorkLease keeps the lease of the item from outside. Two senders of heartbeats for one item make each other's heartbeats
fail. So this program uses the SDK's session tool runner, not its environment worker, which would send heartbeats.

Environment variables that the operator sets in a pod that it makes from a template:
  ANTHROPIC_WORK_ID        the work item; for a session's item this is usually the session's id
  ANTHROPIC_AUTH_TOKEN     the item's sessions token, from the key sessions-token of the Secret; read by the SDK
Environment variables that you set in the template, where you need them:
  ANTHROPIC_SESSION_ID     the session, if it differs from the work item's id
  ANTHROPIC_BASE_URL       another address of the API, such as the simulator's; read by the SDK
  SANDBOX_WORKDIR          the directory in which the tools work; default /workspace
  SANDBOX_MAX_IDLE         seconds without anything new after the end of a turn until the sandbox exits; default 60

Exit status:
  0    the session is over, or idle for SANDBOX_MAX_IDLE; the operator then stops the item
  1    the session may not be read, or not any more
  2    an environment variable is missing
  143  SIGTERM was received; a tool that is running finishes first
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from anthropic import APIError, AsyncAnthropic
from anthropic.lib.tools.agent_toolset import AgentToolContext, beta_agent_toolset_20260401

TERMINATED = 128 + signal.SIGTERM
REFUSED = 1
MISCONFIGURED = 2


async def run_tools(session_id: str, workdir: Path, max_idle: float) -> None:
    """Run the tools that the session's agent calls, in `workdir`, until the session has nothing more to do."""
    async with AsyncAnthropic() as client, AgentToolContext(workdir=workdir) as context:
        tools = beta_agent_toolset_20260401(context)
        async for call in client.beta.sessions.events.tool_runner(session_id, tools=tools, max_idle=max_idle):
            outcome = "error" if call.is_error else "ok" if call.posted else "left to others"
            print(f"tool={call.name} id={call.tool_use_id} outcome={outcome}", flush=True)
        # The runner ends silently if the session may not be read. An exit with 0 would then stop an unfinished item.
        await client.beta.sessions.events.list(session_id, limit=1)


async def work(session_id: str, workdir: Path, max_idle: float) -> int:
    """Run the session's tools until they are done or SIGTERM comes; return the exit status."""
    tools = asyncio.ensure_future(run_tools(session_id, workdir, max_idle))
    # Process 1 of a container has no default action for SIGTERM. The runner lets a tool finish, and post its result,
    # before it stops.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, tools.cancel)
    print(f"session={session_id} running its tools in {workdir}", flush=True)
    try:
        await tools
    except asyncio.CancelledError:
        print(f"session={session_id} terminated", flush=True)
        return TERMINATED
    except APIError as error:
        print(f"session={session_id} cannot be read: {error}", file=sys.stderr)
        return REFUSED
    print(f"session={session_id} finished", flush=True)
    return 0


def main() -> int:
    """Read the environment and work; return the exit status."""
    session_id = os.environ.get("ANTHROPIC_SESSION_ID") or os.environ.get("ANTHROPIC_WORK_ID")
    if not session_id or not os.environ.get("ANTHROPIC_AUTH_TOKEN"):
        message = "ANTHROPIC_WORK_ID and ANTHROPIC_AUTH_TOKEN must be set: does the Secret have a key sessions-token?"
        print(message, file=sys.stderr)
        return MISCONFIGURED
    workdir = Path(os.environ.get("SANDBOX_WORKDIR", "/workspace"))
    max_idle = float(os.environ.get("SANDBOX_MAX_IDLE", "60"))
    return asyncio.run(work(session_id, workdir, max_idle))


if __name__ == "__main__":
    sys.exit(main())
