"""Where a stack's files lie and whose they are.

As root the servers run as the system user `maxbooster`. Then what root writes (bin, lib, conf,
settings) is root's and only readable to the servers, and only data, run, log and tmp are theirs: no
server can make root follow a link of its own.
"""

import hashlib
import os
import pwd
import shutil
import subprocess

from .say import Refusal

USER = "maxbooster"
# sun_path is 108 bytes, and the longest name in it is /.s.PGSQL.12345.lock.
SOCKET_FOLDER_MAX = 80
SERVERS_FOLDERS = ("data", "run", "log", "tmp")


def is_root():
    return os.geteuid() == 0


def ensure_user():
    """The unprivileged user that servers run as; None where we are not root ourselves."""
    if not is_root():
        return None
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        pass
    done = subprocess.run(
        ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
         "--shell", "/usr/sbin/nologin", USER],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refusal(f"The system user {USER} cannot be created ({done.stderr.strip()}); create "
                      "it, or run as an ordinary user.")
    return pwd.getpwnam(USER)


class Place:
    """The folder of one stack. `root` is its real path."""

    def __init__(self, repo, name, user):
        self.repo, self.name, self.user = repo, name, user
        self.link = f"{repo}/.data/{name}"
        self.root = os.path.realpath(self.link)
        digest = hashlib.sha256(os.path.realpath(repo).encode()).hexdigest()[:12]
        self.tag = f"{digest}-{name}"
        self.elsewhere = f"/var/lib/maxbooster/{digest}/{name}"

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    @property
    def exists(self):
        return os.path.isdir(self.root)

    def as_user(self):
        """Arguments for subprocess: become the servers' user where we are root."""
        if self.user is None:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def can(self, test, path):
        """Does the servers' user pass `test -r|-w|-x path`?"""
        return subprocess.run(["/usr/bin/test", test, path], check=False,
                              **self.as_user()).returncode == 0

    def create(self):
        """Make the folders; elsewhere, where the servers' user cannot reach the repo."""
        os.makedirs(f"{self.repo}/.data", mode=0o755, exist_ok=True)
        if os.path.islink(self.link) and not os.path.exists(self.link):
            os.makedirs(os.path.realpath(self.link), mode=0o755, exist_ok=True)
        if not os.path.lexists(self.link):
            if self.can("-x", f"{self.repo}/.data"):
                os.mkdir(self.link, 0o755)
            else:
                os.makedirs(self.elsewhere, mode=0o755, exist_ok=True)
                os.symlink(self.elsewhere, self.link)
        self.root = os.path.realpath(self.link)
        for name in ("bin", "lib", "conf"):
            os.makedirs(self.path(name), mode=0o755, exist_ok=True)
        for name in SERVERS_FOLDERS:
            self.own_folder(self.path(name), 0o750 if name == "log" else 0o700)
        self.own_folder(self.sockets, 0o700)

    def own_folder(self, path, mode):
        """A folder of the servers' user, made in a folder that is ours."""
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            if os.path.islink(path) or not os.path.isdir(path):
                raise Refusal(f"{path} is not a folder; remove it.") from None
        owner = self.user.pw_uid if self.user else os.geteuid()
        if os.stat(path).st_uid != owner:
            if self.user is None:
                raise Refusal(f"{path} belongs to another user; run make as that user, or give "
                              "another STACK=name.")
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def make_folder(self, path):
        """A folder below the servers' folders: made as their user."""
        subprocess.run(["/usr/bin/mkdir", "-p", "-m", "0700", path], check=True, **self.as_user())

    @property
    def sockets(self):
        """Folder of the unix sockets: run/, or a short path where that is too long for one."""
        if len(self.path("run")) <= SOCKET_FOLDER_MAX:
            return self.path("run")
        return f"/tmp/maxbooster-{self.tag}"

    @property
    def shared_memory(self):
        """Folder for memory that processes share."""
        return "/dev/shm" if self.can("-w", "/dev/shm") else self.path("run")

    def write(self, path, text, secret=False):
        """Replace a file of ours at once; secrets only the servers read. True if it differs."""
        full = self.path(path)
        try:
            with open(full, encoding="utf-8") as f:
                if f.read() == text:
                    return False
        except FileNotFoundError:
            pass
        fresh = full + ".new"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w",
                  encoding="utf-8") as f:
            f.write(text)
            f.flush()
            if self.user is not None:
                os.fchown(f.fileno(), 0, self.user.pw_gid)
            os.fchmod(f.fileno(), 0o640 if secret else 0o644)
        os.replace(fresh, full)
        return True

    def copy(self, source, path):
        """Copy a program; a running one keeps its old file. True if it differs."""
        full = self.path(path)
        have = os.stat(source)
        try:
            old = os.stat(full)
            if old.st_size == have.st_size and old.st_mtime_ns == have.st_mtime_ns:
                return False
        except FileNotFoundError:
            pass
        shutil.copy2(source, full + ".new")
        os.chmod(full + ".new", 0o755)
        os.replace(full + ".new", full)
        return True

    def remove(self):
        """Drop everything, the link included."""
        real, sockets = self.root, self.sockets
        shutil.rmtree(real, ignore_errors=True)
        if sockets != self.path("run"):
            shutil.rmtree(sockets, ignore_errors=True)
        if os.path.islink(self.link):
            os.unlink(self.link)
        self.drop_shared_memory()

    def drop_shared_memory(self):
        """Files of this stack's instances; nothing may run."""
        prefix = f"maxbooster-{self.tag}-"
        try:
            names = os.listdir("/dev/shm")
        except OSError:
            return
        for name in names:
            if name.startswith(prefix):
                try:
                    os.unlink(f"/dev/shm/{name}")
                except OSError:
                    pass
