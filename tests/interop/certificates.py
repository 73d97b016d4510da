"""Certificates for tests, made by the command openssl."""

import datetime
import subprocess

CONFIG = """
[ca]
default_ca = it
[it]
database = {folder}/index.txt
new_certs_dir = {folder}
certificate = {folder}/ca.crt
private_key = {folder}/ca.key
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


def openssl(*arguments, **more):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Ca:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder, name="test CA"):
        self.folder = folder
        folder.mkdir()
        (folder / "index.txt").touch()
        (folder / "ca.cnf").write_text(CONFIG.format(folder=folder))
        self.certificate = folder / "ca.crt"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "7",
                "-keyout", folder / "ca.key", "-out", self.certificate, "-subj", f"/CN={name}")

    def sign(self, name, extensions=("subjectAltName=DNS:localhost,IP:127.0.0.1",), days=(-1, 1)):
        """Signs a certificate that is valid between these days from now. Returns the paths of it and of its key."""
        certificate, key, request = (self.folder / f"{name}.{end}" for end in ("crt", "key", "csr"))
        added = [part for extension in extensions for part in ("-addext", extension)]
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-keyout", key, "-out", request, "-subj", f"/CN={name}", *added)
        now = datetime.datetime.now(datetime.timezone.utc)
        start, end = ((now + datetime.timedelta(days=day)).strftime("%Y%m%d%H%M%SZ") for day in days)
        openssl("ca", "-batch", "-notext", "-config", self.folder / "ca.cnf", "-in", request, "-out", certificate,
                "-startdate", start, "-enddate", end)
        return certificate, key

    def expired(self, name):
        return self.sign(name, days=(-3, -2))
