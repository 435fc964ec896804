"""What ``hetfed deploy coordinator`` and ``site`` refuse before they start anything, and what a site says."""

import fcntl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.flower.cli import main
from hetfed_lightning.flower.deploy import coordinator_command, site_command
from hetfed_lightning.flower.deploy.keys import make_keys
from hetfed_lightning.flower.deploy.site_log import SiteLog
from hetfed_lightning.flower.engine.site_engine import NODE_LOG, TASKS_LOG
from hetfed_lightning.flower.files.certificates import Certificate, make_server_certificate, write_private
from hetfed_lightning.flower.files.folder import KeyFolder
from hetfed_lightning.flower.protocol.orders import Order
from hetfed_lightning.flower.site.account_file import ACCOUNT, opened_account
from hetfed_lightning.privacy import PrivacyAccount
from tests.flower.deployments import empty_deployment

AT = "--coordinator=fl.example.org:8000"


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One whose commands would start, were their processes not taken away."""
    folder = empty_deployment(tmp_path / "deployment", "clinic")
    (folder / "server" / "server.yaml").write_text("sites: [clinic]\n", encoding="utf-8")
    (folder / "app").mkdir()
    (folder / "app" / "pyproject.toml").touch()
    (folder / "sites" / "clinic" / "site.yaml").write_text("model: {participants: {clinic: {}}}\n", encoding="utf-8")
    make_keys(folder)

    def started(*arguments: Any) -> int:
        raise SystemExit(str(len(arguments)))

    monkeypatch.setattr(coordinator_command, "run_app", started)
    monkeypatch.setattr(site_command, "take_part", started)
    return folder


@pytest.fixture
def keys(deployment: Path) -> KeyFolder:
    return KeyFolder(deployment / "keys")


@pytest.fixture
def site(deployment: Path, keys: KeyFolder) -> Path:
    """The folder of the clinic, with what it has been sent and what it has made."""
    folder = deployment / "sites" / "clinic"
    (folder / "ca.pem").write_bytes(keys.authority.read_bytes())
    write_private(folder / "clinic.key", keys.private("clinic").read_bytes())
    return folder


def coordinator(deployment: Path, *options: str) -> int:
    return main(["coordinator", str(deployment), *options])


# The coordinator


def test_a_coordinator_starts_with_what_deploy_keys_makes(deployment: Path) -> None:
    with pytest.raises(SystemExit, match="3"):
        coordinator(deployment)
    assert (deployment / "runs" / "version_0").is_dir()


def test_every_missing_file_of_the_coordinator_is_named(deployment: Path, keys: KeyFolder) -> None:
    keys.server_key.unlink()
    keys.public("clinic").unlink()
    with pytest.raises(ConfigError, match=r"server-key.pem: there is no such file(?s:.*)clinic.pub: (?s:.*)--insecure"):
        coordinator(deployment)
    assert not (deployment / "runs").exists(), "nothing is begun"


def test_plain_text_has_to_be_asked_for(deployment: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Plain text, without keys, has to be asked for by --insecure"):
        coordinator(deployment, "--keys", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"leave one of --insecure and --keys out"):
        coordinator(deployment, "--keys", str(deployment / "keys"), "--insecure")
    with pytest.raises(SystemExit, match="3"):
        coordinator(deployment, "--insecure")


def test_a_private_key_that_others_may_read_is_refused(deployment: Path, keys: KeyFolder, site: Path) -> None:
    keys.server_key.chmod(0o640)
    with pytest.raises(ConfigError, match=r"server-key.pem: its mode is 640.*chmod 600"):
        coordinator(deployment)
    (site / "clinic.key").chmod(0o604)
    with pytest.raises(ConfigError, match=r"clinic.key: its mode is 604"):
        main(["site", str(site), AT])


@pytest.mark.parametrize("fault", ["expired", "elsewhere", "no certificate", "no key"])
def test_certificates_and_keys_are_looked_at(deployment: Path, keys: KeyFolder, fault: str) -> None:
    authority = Certificate.read(keys.authority, keys.authority_key)
    past = datetime.now(UTC) - timedelta(days=91)
    if fault == "expired":
        keys.server.write_bytes(make_server_certificate(authority, begins=past, days=90).pem)
    elif fault == "elsewhere":
        keys.server.write_bytes(make_server_certificate(authority, ["fl.example.org"]).pem)
    else:
        (keys.server if fault == "no certificate" else keys.public("clinic")).write_text("nothing\n", encoding="utf-8")
    words = {
        "expired": r"server.pem: it expired on \d{4}-\d\d-\d\d",
        "elsewhere": r"it is for fl.example.org, and the run's own programs call 127.0.0.1",
        "no certificate": r"server.pem: expected a certificate",
        "no key": r"clinic.pub: expected a public key",
    }
    with pytest.raises(ConfigError, match=words[fault]):
        coordinator(deployment)
    if fault == "elsewhere":  # A certificate of a public authority, with which the machine calls itself by its name.
        with pytest.raises(SystemExit):
            coordinator(deployment, "--host", "fl.example.org")


def test_a_folder_that_is_not_the_coordinators_is_refused(deployment: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server.yaml: there is no such file; `hetfed deploy init"):
        coordinator(tmp_path)
    (deployment / "server" / "server.yaml").write_text("sites: clinic\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sites: expected a list of names, got 'clinic'"):
        coordinator(deployment)


def test_there_has_to_be_a_run_to_resume(deployment: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume: there is no run in"):
        coordinator(deployment, "--resume")


# A site


def test_a_site_takes_part_until_it_is_told_to_stop(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", str(site), AT]) == 0
    assert (site / "state").stat().st_mode & 0o077 == 0
    del capsys


@pytest.mark.parametrize("name", ["ca.pem", "clinic.key", "site.yaml"])
def test_a_missing_file_of_a_site_is_named(site: Path, name: str) -> None:
    (site / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name}: there is no such file"):
        main(["site", str(site), AT])
    assert not (site / "state").exists(), "nothing is begun"


def test_a_sites_plain_text_has_to_be_asked_for(site: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave out --insecure, or --ca and --key"):
        main(["site", str(site), AT, "--insecure", "--key", str(site / "clinic.key")])
    (site / "clinic.key").unlink()
    (site / "ca.pem").unlink()
    assert main(["site", str(site), AT, "--insecure"]) == 0


def test_another_kind_of_key_is_refused(site: Path, keys: KeyFolder) -> None:
    (site / "clinic.key").write_bytes(keys.server_key.read_bytes())
    with pytest.raises(ConfigError, match=r"clinic.key: expected a private key as `ssh-keygen"):
        main(["site", str(site), AT])


@pytest.mark.parametrize("address", ["https://fl.example.org:8000", "fl.example.org", "fl.example.org:port"])
def test_an_address_has_a_host_and_a_port(site: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"--coordinator: expected HOST:PORT"):
        main(["site", str(site), f"--coordinator={address}"])


@pytest.mark.parametrize("participants", [{}, {"a": {}, "b": {}}, None], ids=["none", "two", "nothing"])
def test_a_site_has_one_participant(site: Path, participants: Any) -> None:
    (site / "site.yaml").write_text(yaml.safe_dump({"model": {"participants": participants}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"model.participants: expected one participant"):
        main(["site", str(site), AT])


def test_a_second_process_of_a_site_is_refused(site: Path) -> None:
    (site / "state").mkdir()
    with (site / "state" / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"`hetfed deploy site` of clinic runs already"):
            main(["site", str(site), AT])
    assert main(["site", str(site), AT]) == 0


def test_a_site_does_not_start_on_an_account_of_its_privacy_that_was_altered(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = site / "state"
    state.mkdir()
    with opened_account(state, "clinic") as account:
        for round_index in range(2):
            account.note("run", round_index, PrivacyAccount([(0.5, 1.5, 7)]), f"{round_index}")
    account_file = state / ACCOUNT
    account_file.write_text(account_file.read_text().replace('"round": 1', '"round": 2'))
    with pytest.raises(ConfigError, match=r"participant 'clinic': .*line 2 was altered.* --begin_account"):
        main(["site", str(site), AT])
    assert main(["site", str(site), AT, "--begin_account"]) == 0
    assert "privacy begins anew with 14 private steps" in caplog.text
    assert main(["site", str(site), AT]) == 0


# What a site says


def test_a_site_says_what_happens_once_and_in_plain_words(tmp_path: Path) -> None:
    node, tasks = tmp_path / NODE_LOG, tmp_path / TASKS_LOG
    node.write_text("INFO : SuperNode ID: 1\n", encoding="utf-8")  # of another day
    lines = SiteLog(tmp_path, "fl.example.org:8000")

    def said(log: Path, *new: str) -> list[str]:
        with log.open("a", encoding="utf-8") as file:
            file.write("\n".join(new))
        return [one.split(" at fl.example.org:8000")[0] for one in lines.new()]

    retry = "\x1b[93mWARNING\x1b[0m : Connection attempt failed, retrying in 2.00 seconds\n"
    assert said(node, retry, retry) == ["The connection with the coordinator"]
    assert said(node, "Connection successful after 3 seconds and 2 tries.\n") == []
    assert said(node, "INFO : SuperNode") == []
    assert said(node, " ID: 2\n") == ["Connected with the coordinator"]
    assert said(tasks, "INFO : noise\nhetfed: Done: round 1 trained (1.0 s).\n") == ["Done: round 1 trained (1.0 s)."]
    assert said(node, retry) == ["The connection with the coordinator"]
    assert said(node, "Connection successful after 3 seconds and 2 tries.\n") == ["Connected with the coordinator"]
    assert said(node, "INFO : SuperNode ID: 2\n") == []
    lines.forget()
    assert said(node, "INFO : SuperNode ID: 2\n") == ["Connected with the coordinator"]
    assert said(node, "ERROR : SSL/TLS handshake error detected.\n") == ["The coordinator"]
    assert said(node, "[code: 2004] Failed to activate SuperNode.\n") == ["The coordinator"]


def test_orders_are_told_with_rounds_counted_from_one() -> None:
    assert Order("run", finish=0, begin=1).summary == "round 1 closed, round 2 trained"
    assert Order("run", learn=2).summary == "round 3 learned from what came"
    assert Order("run", finish=1, enter=2, messages={0: ()}).summary == "round 2 closed, round 3 entered"
    assert Order("run", messages={0: ("a",)}).summary == "sent what is shared"
