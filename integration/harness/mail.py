"""A mail server that keeps what it gets in a folder, so that all test processes see it."""
import email
import email.policy
import pathlib
import re
import uuid

from aiosmtpd.controller import Controller

from .waits import wait_until


class _Store:
    """aiosmtpd's handler: one file per message, complete from the moment it has its name."""

    def __init__(self, folder):
        self.folder = folder

    async def handle_DATA(self, _server, _session, envelope):
        """Keep a message."""
        name = uuid.uuid4().hex
        hidden = self.folder / f".{name}"
        to = ",".join(envelope.rcpt_tos)
        hidden.write_bytes(f"X-Envelope-To: {to}\r\n".encode() + envelope.original_content)
        hidden.rename(self.folder / f"{name}.eml")
        return "250 OK"


class MailServer:
    """Runs in the process that starts it."""

    def __init__(self, host, port, folder):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.eml"):
            old.unlink()
        self._controller = Controller(_Store(folder), hostname=host, port=port)
        self._controller.start()

    def stop(self):
        """End it."""
        self._controller.stop()


class Mailbox:
    """Reads what a MailServer keeps."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def messages_to(self, address):
        """All messages to an address."""
        found = []
        for file in sorted(self.folder.glob("*.eml"), key=lambda f: f.stat().st_mtime_ns):
            message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
            if address.lower() in message["X-Envelope-To"].lower():
                found.append(message)
        return found

    def wait_for(self, address, subject_pattern, seconds=30, count=1):
        """The newest of at least count messages whose subject fits."""
        def fitting():
            found = [m for m in self.messages_to(address)
                     if re.search(subject_pattern, m["Subject"] or "", re.I)]
            return found if len(found) >= count else None
        return wait_until(fitting, seconds, f"mail to {address} about {subject_pattern}")[-1]


def text_of(message):
    """The plain text of a message."""
    return message.get_body(preferencelist=("plain",)).get_content()


def reset_token_of(message):
    """The token of a password reset mail."""
    found = re.search(r"[?&]token=([A-Za-z0-9_-]+)", text_of(message))
    assert found, text_of(message)
    return found.group(1)
