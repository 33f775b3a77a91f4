"""The role that speaks with the plant: MQTT → inbox, outbound → MQTT and webhooks."""

from __future__ import annotations

from edge.config import Settings
from edge.doors.notify import notify
from edge.intake import Andon, MqttIntake
from edge.outbound import Sender
from edge.roles.loop import Beat, Stopping, beside, repeat
from edge.roles.prepare import open_database


def ingest(settings: Settings) -> None:
    """Run until told to stop. READY means: listening to the broker, or trying to."""
    stopping = Stopping()
    with open_database(settings, name="ingest") as database:
        intake = MqttIntake(settings, database)
        andon = Andon(settings, database)
        hooks = Sender(database)
        answering = (
            beside([andon.step], stopping.event, name="andon", rest=0.3),
            beside([hooks.step], stopping.event, name="webhooks", rest=1.0),
        )
        notify("READY=1")
        try:
            # `step` waits for messages itself, so there is nothing to rest for.
            repeat([intake.step], stopping.event, rest=lambda: None, beat=Beat())
        finally:
            notify("STOPPING=1")
            stopping.event.set()
            intake.close()
            for thread in answering:
                thread.join(5)
            andon.close()
            hooks.close()
