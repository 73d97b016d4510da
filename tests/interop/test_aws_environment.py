"""What the gateway makes of the environment of AWS: credentials that fail and rotate, regions, proxies, certificates."""

import datetime
import hashlib
import json
import os
import socket
import subprocess
import time

import pytest

from conftest import GATEWAY, clean_environment
from fake_aws import EMPTY, ERROR, STS, Server, ec2, gateway, keys, listed


def container(lifetime=3600):
    """A container's provider of credentials, which fails while `down` is set."""
    state = {"down": None}

    def answer(*_):
        if state["down"] == "silent":
            time.sleep(20)
        if state["down"]:
            return 500, "down"
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=lifetime)
        return 200, json.dumps({"AccessKeyId": "container-key", "SecretAccessKey": "secret", "Token": "token",
                                "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ")})
    return Server(answer), state


@pytest.mark.parametrize("trouble", ["500", "silent"])
def test_a_container_provider_that_fails_is_trouble_that_heals(stubs, trouble):
    provider, state = container(lifetime=1)
    endpoint = ec2()
    state["down"] = trouble
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, AWS_CONTAINER_CREDENTIALS_FULL_URI=provider.url + "/creds") as (channel, _):
        code, text = listed(channel, stubs)
        assert code == "UNAVAILABLE" and "Credentials" in text, (code, text)
        state["down"] = None
        assert listed(channel, stubs) == ("OK", "")
        state["down"] = trouble
        time.sleep(1.5)  # The credentials expire.
        code, text = listed(channel, stubs)
        assert code == "UNAVAILABLE" and "Credentials" in text, (code, text)
    provider.stop()
    endpoint.stop()


def test_an_sts_that_fails_is_trouble_that_heals(stubs, tmp_path):
    state = {"down": True}
    sts = Server(lambda *_: (500, ERROR.format("InternalFailure")) if state["down"] else (200, STS))
    endpoint = ec2()
    token = tmp_path / "token"
    token.write_text("a token")
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, AWS_ENDPOINT_URL_STS=sts.url, AWS_WEB_IDENTITY_TOKEN_FILE=str(token),
                 AWS_ROLE_ARN="arn:aws:iam::123456789012:role/gateway") as (channel, _):
        code, text = listed(channel, stubs)
        assert code == "UNAVAILABLE" and "Credentials" in text, (code, text)
        state["down"] = False
        assert listed(channel, stubs) == ("OK", "")
        assert set(keys(endpoint)) == {"web-key"}


def test_without_a_provider_a_call_is_unauthenticated(stubs):
    with gateway() as (channel, _):
        code, text = listed(channel, stubs)
        assert code == "UNAUTHENTICATED" and "NoCredentials" in text, (code, text)


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired", "InvalidClientTokenId"])
def test_a_rotated_credentials_file_is_read_again(stubs, tmp_path, code):
    file = tmp_path / "credentials"
    profile = "[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n"
    file.write_text(profile.format("old-key"))
    refused = set()
    endpoint = ec2(refused, code)
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, AWS_SHARED_CREDENTIALS_FILE=str(file)) as (channel, _):
        assert listed(channel, stubs) == ("OK", "")
        file.write_text(profile.format("new-key"))
        refused.add("old-key")
        assert listed(channel, stubs) == ("OK", "")
        assert keys(endpoint) == ["old-key", "old-key", "new-key"]
        # Credentials that stay bad are no trouble that heals.
        refused.add("new-key")
        time.sleep(5)
        status, text = listed(channel, stubs)
        assert status == "UNAUTHENTICATED" and code in text, (status, text)
        assert keys(endpoint)[3:] == ["new-key", "new-key"]


def test_a_credentials_file_that_is_away_for_a_while_is_read_again(stubs, tmp_path):
    file = tmp_path / "credentials"
    profile = "[default]\naws_access_key_id = {}\naws_secret_access_key = secret\n"
    refused = set()
    endpoint = ec2(refused)
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, AWS_SHARED_CREDENTIALS_FILE=str(file)) as (channel, _):
        assert listed(channel, stubs)[0] == "UNAUTHENTICATED"
        file.write_text(profile.format("old-key"))
        time.sleep(5)
        codes = [listed(channel, stubs)[0] for _ in range(2)]
        assert codes == ["UNAUTHENTICATED", "OK"], "at most one call is lost"
        file.unlink()
        refused.add("old-key")
        time.sleep(5)
        assert listed(channel, stubs)[0] == "UNAVAILABLE"
        file.write_text(profile.format("new-key"))
        time.sleep(5)
        assert listed(channel, stubs)[0] == "OK"


def test_a_profile_of_aws_login_is_obeyed(stubs, tmp_path):
    session = "arn:aws:iam::123456789012:user/somebody"
    config, cache = tmp_path / "config", tmp_path / "cache"
    config.write_text(f"[default]\nlogin_session = {session}\n")
    cache.mkdir()
    key = subprocess.run(["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout"], check=True,
                         capture_output=True, text=True).stdout
    token = {"accessToken": {"accessKeyId": "login-key", "secretAccessKey": "secret", "sessionToken": "token",
                             "accountId": "123456789012", "expiresAt": "2099-01-01T00:00:00Z"},
             "tokenType": "aws_sigv4", "refreshToken": "refresh", "idToken": "id",
             "clientId": "arn:aws:signin:::devtools/same-device", "dpopKey": key}
    (cache / f"{hashlib.sha256(session.encode()).hexdigest()}.json").write_text(json.dumps(token))
    endpoint = ec2()
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, AWS_CONFIG_FILE=str(config),
                 AWS_LOGIN_CACHE_DIRECTORY=str(cache)) as (channel, _):
        assert listed(channel, stubs) == ("OK", "")
    assert keys(endpoint) == ["login-key"]


def refused_start(**environment):
    done = subprocess.run([GATEWAY, "serve", "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=10,
                          env=clean_environment(AWS_EC2_METADATA_DISABLED="true", **environment))
    assert done.returncode == 2, done
    return done.stderr


def test_line_ends_and_wrong_regions_are_refused_at_the_start(tmp_path):
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "AKID\n"), ("AWS_SECRET_ACCESS_KEY", "secret\n"), ("AWS_PROFILE", "a\n"),
        ("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1\n"), ("AWS_REGION", "us-east-1a"),
        ("AWS_DEFAULT_REGION", "mars"), ("AWS_CA_BUNDLE", "/no/such/file"), ("SSL_CERT_FILE", os.devnull),
    ):
        error = refused_start(**({"AWS_REGION": "us-east-1"} if "REGION" not in name else {}) | {name: value})
        assert name in error and "secret" not in error, error
    config = tmp_path / "config"
    config.write_text("[default]\nregion = us-east-1a\n")
    assert "us-east-1a" in refused_start(AWS_CONFIG_FILE=str(config))


def test_a_region_with_a_line_end_and_a_key_with_one_in_a_file(stubs, tmp_path):
    endpoint = ec2()
    process = tmp_path / "process.sh"
    process.write_text('#!/bin/sh\nprintf %s \'{"Version": 1, "AccessKeyId": "key\\n", "SecretAccessKey": "secret"}\'\n')
    process.chmod(0o755)
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {process}\n")
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, AWS_REGION="us-east-1\n", AWS_CONFIG_FILE=str(config)) as (channel, _):
        code, text = listed(channel, stubs)
        assert code == "UNAUTHENTICATED" and "access key ID" in text, (code, text)
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, AWS_REGION="us-east-1\n", AWS_ACCESS_KEY_ID="key",
                 AWS_SECRET_ACCESS_KEY="secret") as (channel, _):
        assert listed(channel, stubs) == ("OK", "")


def test_an_endpoint_of_one_region_is_refused_for_another():
    endpoint = "https://vpce-0123-abcd.ec2.us-east-1.vpce.amazonaws.com"
    for name in ("AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"):
        error = refused_start(AWS_REGION="eu-west-1", **{name: endpoint})
        assert "vpce-0123-abcd" in error and "eu-west-1" in error, error
    error = refused_start(AWS_REGION="us-east-1", AMISTORE_ALLOWED_REGIONS="us-east-1,eu-west-1",
                          AWS_ENDPOINT_URL_EC2=endpoint)
    assert "eu-west-1" in error, error


def health(channel):
    from_name = channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=lambda _: b"",
                                    response_deserializer=lambda answer: answer)
    return {b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}[from_name(None)]


def test_the_gateway_listens_while_the_region_is_searched(stubs):
    silent = socket.create_server(("127.0.0.1", 0))
    metadata = f"http://127.0.0.1:{silent.getsockname()[1]}"
    search = {"AWS_EC2_METADATA_DISABLED": None, "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata, "AWS_REGION": None}
    with gateway(**search) as (channel, process):
        code, text = listed(channel, stubs)
        assert code == "UNAVAILABLE" and "region" in text, (code, text)
        assert health(channel) == "NOT_SERVING"
        assert process.wait(timeout=60) == 2
        error = process.stderr.read()
        assert "no region" in error and "--default-region" in error, error
    with gateway(**search) as (channel, process):
        process.terminate()
        assert process.wait(timeout=5) == 0, "the signal is taken while the region is searched"
    with gateway("--default-region", "us-east-1", **search) as (channel, process):
        assert health(channel) == "SERVING"


def test_check_says_what_it_finds():
    endpoint = ec2({"bad-key"}, "InvalidClientTokenId")

    def check(**environment):
        return subprocess.run([GATEWAY, "serve", "--check"], capture_output=True, text=True, timeout=60,
                              env=clean_environment(AWS_EC2_METADATA_DISABLED="true", AWS_ENDPOINT_URL_EC2=endpoint.url,
                                                    **environment))
    good = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "good-key", "AWS_SECRET_ACCESS_KEY": "secret"}
    # The endpoint answers a dry run with a list, which no EC2 does.
    done = check(**good)
    assert done.returncode == 0 and "good-key" in done.stdout and "secret" not in done.stdout, done
    assert "region: us-east-1" in done.stdout, done
    bad = check(**good | {"AWS_ACCESS_KEY_ID": "bad-key"})
    assert bad.returncode == 2 and "InvalidClientTokenId" in bad.stderr, bad
    none = check(AWS_REGION="us-east-1")
    assert none.returncode == 2 and "credentials: NoCredentials" in none.stderr, none
    assert check(AMISTORE_TTLL="5s", **good).returncode == 2
    assert "no region" in check().stderr


def test_proxies_are_obeyed_but_not_for_credentials(stubs):
    provider, _ = container()
    endpoint = ec2()
    proxy = Server(lambda *_: (200, EMPTY))
    credentials = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": provider.url + "/creds"}
    with gateway(AWS_ENDPOINT_URL_EC2="http://ec2.us-east-1.invalid", HTTP_PROXY=proxy.url, **credentials) as (channel, _):
        assert listed(channel, stubs) == ("OK", "")
    assert {path for _, path, _ in proxy.requests} == {"http://ec2.us-east-1.invalid/"}
    assert provider.requests
    proxy.requests.clear()
    with gateway(AWS_ENDPOINT_URL_EC2=endpoint.url, HTTP_PROXY=proxy.url, NO_PROXY="127.0.0.1", **credentials) as (channel, _):
        assert listed(channel, stubs) == ("OK", "")
    assert not proxy.requests and endpoint.requests
    refusing = Server(lambda *_: (403, "denied"))
    with gateway(HTTPS_PROXY=refusing.url, **credentials) as (channel, _):
        assert listed(channel, stubs)[0] == "UNAVAILABLE"
    assert {(method, path) for method, path, _ in refusing.requests} == {("CONNECT", "ec2.us-east-1.amazonaws.com:443")}


def test_a_bundle_of_certificates_is_obeyed(stubs, tmp_path):
    import ssl

    authority, certificate, key = tmp_path / "authority.pem", tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([*make, "-keyout", tmp_path / "authority.key", "-out", authority, "-subj", "/CN=authority"],
                   check=True, capture_output=True)
    subprocess.run([*make, "-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-CA", authority,
                    "-CAkey", tmp_path / "authority.key", "-addext", "subjectAltName=DNS:localhost",
                    "-addext", "basicConstraints=critical,CA:FALSE"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    endpoint = Server(lambda *_: (200, EMPTY), tls=context)
    environment = {"AWS_ENDPOINT_URL_EC2": f"https://localhost:{endpoint.port}", "AWS_ACCESS_KEY_ID": "key",
                   "AWS_SECRET_ACCESS_KEY": "secret"}
    with gateway(**environment) as (channel, _):
        code, text = listed(channel, stubs)
        assert code == "UNAVAILABLE" and f"localhost:{endpoint.port}" in text and "UnknownIssuer" in text, (code, text)
    config = tmp_path / "config"
    config.write_text(f"[default]\nca_bundle = /no/such/file\n[profile inside]\nca_bundle = {authority}\n")
    inside = {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "inside"}
    wins = {"AWS_CONFIG_FILE": str(config), "AWS_CA_BUNDLE": str(authority)}
    for bundle in ({"AWS_CA_BUNDLE": str(authority)}, {"SSL_CERT_FILE": str(authority)}, inside, wins):
        with gateway(**environment, **bundle) as (channel, _):
            assert listed(channel, stubs) == ("OK", ""), bundle
    error = refused_start(AWS_REGION="us-east-1", AWS_CONFIG_FILE=str(config))
    assert "ca_bundle of the AWS profile: cannot read /no/such/file" in error, error
    config.write_text(f"[default]\nca_bundle = {os.devnull}\n")
    error = refused_start(AWS_REGION="us-east-1", AWS_CONFIG_FILE=str(config))
    assert "ca_bundle of the AWS profile: expected valid certificates" in error, error


def test_a_host_that_is_not_found_is_one_warning_that_asks_for_the_region(stubs):
    with gateway(AWS_ENDPOINT_URL_EC2="http://ec2.us-nowhere-1.invalid", AWS_REGION="us-nowhere-1", AWS_ACCESS_KEY_ID="key",
                 AWS_SECRET_ACCESS_KEY="secret") as (channel, process):
        for _ in range(5):
            code, text = listed(channel, stubs)
            assert code == "UNAVAILABLE", (code, text)
            assert "ec2.us-nowhere-1.invalid" in text and "is the region us-nowhere-1 right?" in text, text
        process.terminate()
        assert process.stderr.read().count("WARN") == 1
