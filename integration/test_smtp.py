"""lib/smtp by itself, against a real SMTP server that refuses, stalls and disappears on demand."""
import asyncio
import socket
import ssl
import subprocess
import threading

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from harness import s3lab

pytestmark = pytest.mark.xdist_group("s3lab")

MAIL = r"Subject: hi\nFrom: a@b.example\n\n.one\n..two\nthree\n.\nfour"


class Handler:
    """Keeps mails; the recipient's address says what happens."""

    def __init__(self):
        self.mails = []

    async def handle_RCPT(self, _server, _session, envelope, address, _options):
        """refused@: for good; later@: for now."""
        if address.startswith("refused@"):
            return "550 no such mailbox"
        if address.startswith("later@"):
            return "451 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, _session, envelope):
        """spam@: refused for good when read; silent@, gone@: no answer."""
        to = envelope.rcpt_tos[0]
        if to.startswith("spam@"):
            return "554 no"
        if to.startswith("full@"):
            return "452 no room now"
        if to.startswith("silent@"):
            await asyncio.sleep(5)
        if to.startswith("gone@"):
            server.transport.abort()
        self.mails.append(envelope)
        return "250 OK"


def authenticate(_server, _session, _envelope, mechanism, data):
    """One account."""
    ok = (mechanism in ("LOGIN", "PLAIN") and isinstance(data, LoginPassword)
          and data.login == b"us/er" and data.password == b"pass word")
    return AuthResult(success=ok, handled=False)


class Server(Controller):
    """aiosmtpd with options."""

    def __init__(self, **options):
        self.options = options
        super().__init__(Handler(), hostname="127.0.0.1", port=s3lab.free_port())

    def factory(self):
        return SMTP(self.handler, **self.options)

    @property
    def url(self):
        """Where it listens."""
        return f"127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def server():
    """A plain server."""
    found = Server()
    found.start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def driver():
    """The driver of lib/smtp."""
    found = s3lab.Driver(s3lab.build_driver())
    yield found
    found.close()


def send(driver, server, to, expect="OK", sender="Max Booster <no-reply@localhost>", mail=MAIL,
         user=""):
    """Send a mail; the result."""
    return driver("mail", f"smtp://{user}{server.url}", sender, to, mail, expect=expect)


def test_mail_arrives_as_it_was_written(driver, server):
    server.handler.mails.clear()
    send(driver, server, "Ann <ann@example.org>")
    (mail,) = server.handler.mails
    assert mail.mail_from == "no-reply@localhost"
    assert mail.rcpt_tos == ["ann@example.org"]
    assert mail.original_content == (b"Subject: hi\r\nFrom: a@b.example\r\n\r\n.one\r\n..two\r\n"
                                     b"three\r\n.\r\nfour\r\n")


def test_mail_cannot_smuggle_another(driver, server):
    server.handler.mails.clear()
    smuggled = r"Subject: hi\n\nx\n.\rMAIL FROM:<e@x>\n.\r\nMAIL FROM:<e@x>\r\nRCPT TO:<v@x>\n"
    send(driver, server, "ann@example.org", mail=smuggled)
    (mail,) = server.handler.mails
    assert mail.original_content.count(b"\r\n.\r\n") == 2
    assert b"MAIL FROM" in mail.original_content


def test_refusals_for_good_and_for_now_differ(driver, server):
    for to, error in [("refused@example.org", "NOT_FOUND"),
                      ("spam@example.org", "VALIDATION_FAILED"),
                      ("later@example.org", "DEPENDENCY_UNAVAILABLE"),
                      ("full@example.org", "DEPENDENCY_UNAVAILABLE")]:
        send(driver, server, to, expect=error)


def test_lost_reply_leaves_the_outcome_unknown(driver, server):
    driver("deadline", 500)
    try:
        assert send(driver, server, "silent@example.org", expect="WRITE_UNKNOWN").ms < 3000
    finally:
        driver("deadline", 30000)
    send(driver, server, "gone@example.org", expect="WRITE_UNKNOWN")


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
def test_log_in_is_by_the_url(driver):
    server = Server(authenticator=authenticate, auth_required=True, auth_require_tls=False)
    server.start()
    try:
        send(driver, server, "ann@example.org", user="us%2Fer:pass%20word@")
        assert len(server.handler.mails) == 1
        # Our set-up is at fault, not the mail: it must stay in the queue.
        for user in ["us%2Fer:wrong@", ""]:
            result = send(driver, server, "ann@example.org", user=user,
                          expect="DEPENDENCY_UNAVAILABLE")
            assert "wrong" not in result.cause
    finally:
        server.stop()


@pytest.mark.filterwarnings("ignore:Requiring AUTH")
def test_password_leaves_the_machine_only_under_tls(driver):
    server = Server(authenticator=authenticate, auth_required=True, auth_require_tls=False)
    server.start()
    try:
        # 0.0.0.0 is reached like the loopback but does not count as it.
        driver("mail", f"smtp://us%2Fer:pass%20word@0.0.0.0:{server.port}", "a@b", "c@d", MAIL,
               expect="DEPENDENCY_UNAVAILABLE")
        assert server.handler.mails == []
        driver("mail", f"smtp://us%2Fer:pass%20word@localhost:{server.port}", "a@b", "c@d", MAIL)
    finally:
        server.stop()


def test_certificate_that_is_not_trusted_gets_no_mail(driver, tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                    "-keyout", tmp_path / "key", "-out", tmp_path / "cert", "-subj",
                    "/CN=localhost"], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = Server(tls_context=context)
    server.start()
    try:
        send(driver, server, "ann@example.org", expect="DEPENDENCY_UNAVAILABLE")
        assert server.handler.mails == []
    finally:
        server.stop()


def test_dead_and_silent_servers_are_bounded(driver):
    free = s3lab.free_port()
    result = driver("mail", f"smtp://127.0.0.1:{free}", "a@b", "c@d", "x",
                    expect="DEPENDENCY_UNAVAILABLE")
    assert result.ms < 2000
    with socket.create_server(("127.0.0.1", 0)) as mute:
        driver("deadline", 400)
        try:
            port = mute.getsockname()[1]
            result = driver("mail", f"smtp://127.0.0.1:{port}", "a@b", "c@d", "x",
                            expect="DEPENDENCY_UNAVAILABLE")
            assert 300 <= result.ms < 2500
        finally:
            driver("deadline", 30000)


def test_greeting_that_refuses_us_is_not_the_mails_fault(driver):
    with socket.create_server(("127.0.0.1", 0)) as rude:
        def greet():
            connection, _ = rude.accept()
            with connection:
                connection.sendall(b"554 not you\r\n")
                connection.recv(100)
        thread = threading.Thread(target=greet)
        thread.start()
        driver("mail", f"smtp://127.0.0.1:{rude.getsockname()[1]}", "a@b", "c@d", "x",
               expect="DEPENDENCY_UNAVAILABLE")
        thread.join(10)
