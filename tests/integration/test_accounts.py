"""How the broker learns of its users: at once, later, and again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.agent_double import AgentDouble
from tests.conftest import TestBroker
from tests.integration.test_registration import ByTable, provisioning_key
from tests.rest import KEY, Rest

from iotistica import mqtt
from iotistica.api.accounts import Account, Rule
from iotistica.api.accounts.broker_passwords import BrokerPasswords
from iotistica.api.accounts.choice import check
from iotistica.api.accounts.files import Files
from iotistica.api.accounts.reconciler import Reconciler
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.agent_parts import AgentParts, agent_handlers
from iotistica.api.route import routes_of
from iotistica.api.table import Table
from iotistica.credentials import Credentials
from iotistica.errors import ConfigError, StoreUnavailable
from iotistica.settings import Settings
from iotistica.store.broker_users import BrokerUserStore
from iotistica.store.departures import Departures
from iotistica.store.pool import Pool
from iotistica.store.pruning import prune
from iotistica.streams import Streams


class Told:
    """Notes what it is told, and fails while it is away."""

    def __init__(self) -> None:
        self.away = False
        self.has_lost = False
        self.known: dict[str, Account] = {}
        self.puts = 0

    async def prepare(self) -> bool:
        if self.away:
            raise StoreUnavailable("the broker is away")
        lost, self.has_lost = self.has_lost, False
        return lost

    async def put(self, accounts: Sequence[Account]) -> None:
        if self.away:
            raise StoreUnavailable("the broker is away")
        self.puts += len(accounts)
        self.known |= {account.username: account for account in accounts}

    async def remove(self, usernames: Collection[str]) -> None:
        if self.away:
            raise StoreUnavailable("the broker is away")
        for username in usernames:
            self.known.pop(username, None)


@pytest.fixture
async def agent(rest: Rest) -> AgentDouble:
    double = AgentDouble(ask=ByTable(rest), provisioning_key=await provisioning_key(rest))
    await double.come_in()
    return double


def reconciler(pool: Pool, told: Told) -> Reconciler:
    settings = Settings.load(jwt_secret=KEY)
    return Reconciler(BrokerUserStore(pool), told, BrokerPasswords(AgentDigests(settings)))


async def test_what_could_not_be_told_is_told_later(
    connection: asyncpg.Connection, pool: Pool, agent: AgentDouble
) -> None:
    await connection.execute("UPDATE mqtt_users SET told = 0")
    told = Told()
    broker, name = reconciler(pool, told), f"agent_{agent.uuid}"
    told.away = True
    assert await broker.tell(name) is False
    with pytest.raises(StoreUnavailable):
        await broker.catch_up()
    told.away = False
    await broker.catch_up()
    rules, version = (Rule(agent.topic("#"), 7),), told.known[name].version
    password = agent.registration["mqtt"]["password"]
    assert told.known == {name: Account(name, password, rules, version)}
    assert await connection.fetchval("SELECT revision = told FROM mqtt_users")
    # What it knows it is not told again, except once after a start.
    await broker.catch_up()
    assert told.puts == 1
    await reconciler(pool, told).catch_up()
    assert told.puts == 2
    # And whenever it has lost what it knew.
    told.has_lost = True
    await broker.catch_up()
    assert told.puts == 3


async def test_a_user_that_is_gone_is_told_and_then_forgotten(
    rest: Rest, connection: asyncpg.Connection, pool: Pool, agent: AgentDouble
) -> None:
    told = Told()
    broker, name = reconciler(pool, told), f"agent_{agent.uuid}"
    await broker.catch_up()
    # The broker of `rest` is elsewhere, so it is told nothing of this.
    path = f"/api/v1/agents/{agent.uuid}"
    await connection.execute("UPDATE mqtt_users SET is_active = false, revision = revision + 1")
    await broker.step()
    assert told.known == {}
    await connection.execute("UPDATE mqtt_users SET is_active = true, revision = revision + 1")
    await broker.step()
    assert list(told.known) == [name]
    assert (await rest.ask("DELETE", path)).status == 200
    assert await connection.fetchval("SELECT count(*) FROM mqtt_users") == 0
    assert await connection.fetchval("SELECT count(*) FROM mqtt_acls") == 0


async def test_an_agent_that_comes_back_after_its_deletion_has_another_password(
    rest: Rest, agent: AgentDouble
) -> None:
    before = agent.registration["mqtt"]["password"]
    assert (await rest.ask("DELETE", f"/api/v1/agents/{agent.uuid}")).status == 200
    await agent.come_in()
    assert agent.registration["mqtt"]["password"] != before


async def test_pages_of_users(pool: Pool, connection: asyncpg.Connection, rest: Rest) -> None:
    await connection.execute(
        "INSERT INTO mqtt_users (username, tenant_id, password_hash, password_salt)"
        " SELECT 'u' || n, $1, 'h', '\\x00' FROM generate_series(1, 2500) AS n",
        rest.tenant,
    )
    told = Told()
    await reconciler(pool, told).catch_up()
    assert (len(told.known), told.puts) == (2500, 2500)


async def test_a_user_whose_password_others_set_is_left_to_them(
    pool: Pool, connection: asyncpg.Connection, rest: Rest
) -> None:
    await connection.execute(
        "INSERT INTO mqtt_users (username, tenant_id, password_hash) VALUES ('own', $1, 'h')",
        rest.tenant,
    )
    told = Told()
    await reconciler(pool, told).catch_up()
    assert told.known == {}


@asynccontextmanager
async def connected(broker: TestBroker, account: Account) -> AsyncIterator[mqtt.Session]:
    url = broker.server.url_for(account.username, account.password)
    options = mqtt.parse_url(url, client_id=secrets.token_hex(8), clean_start=True)
    async with mqtt.connect(options) as session:
        yield session


def files(broker: TestBroker) -> Files:
    server = broker.server
    return Files(
        server.credentials,
        pid_file=server.child.command.pid_file,
        mqtt_url=broker.bridge_url,
    )


def account(*rules: Rule) -> Account:
    return Account(f"agent_{secrets.token_hex(8)}", secrets.token_urlsafe(), rules)


async def test_a_broker_with_files_lets_an_account_in_at_once(broker: TestBroker) -> None:
    own = account(Rule("i/x/a/y/#", 7))
    told = files(broker)
    await told.put([own])
    async with connected(broker, own) as session:
        await session.publish("i/x/a/y/state", b"1", qos=1)
        # Others come and go; this one stays connected.
        await told.put([account(), account()])
        await session.publish("i/x/a/y/state", b"2", qos=1)
        await told.remove([own.username])
        with pytest.raises(mqtt.Disconnected):
            async with asyncio.timeout(10):
                await session.receive()
    with pytest.raises((mqtt.Refused, mqtt.Disconnected)):
        async with connected(broker, own):
            pass


async def test_many_accounts_at_once_are_all_let_in(broker: TestBroker) -> None:
    told, many = files(broker), [account(Rule("i/x/#", 5)) for _ in range(30)]
    await asyncio.gather(*(told.put([one]) for one in many))
    for one in many:
        async with connected(broker, one):
            pass
    await told.remove([one.username for one in many])


def test_rules_as_mosquitto_has_them(tmp_path: Path) -> None:
    place = Credentials(tmp_path / "passwords", tmp_path / "acl")
    told = Files(place, pid_file=None, mqtt_url="mqtt://127.0.0.1:1")
    rules = (Rule("a", 1), Rule("b", 2), Rule("c", 3), Rule("d", 4), Rule("e", 5), Rule("f", 7))
    asyncio.run(told.put([Account("u", "p", rules)]))
    assert (tmp_path / "acl").read_text() == (
        "user u\ntopic read a\ntopic write b\ntopic readwrite c\ntopic read d\ntopic read e\n"
        "topic readwrite f\n"
    )


async def test_a_broker_that_does_not_run_reads_the_files_when_it_starts(tmp_path: Path) -> None:
    place = Credentials(tmp_path / "passwords", tmp_path / "acl")
    stale = tmp_path / "broker.pid"
    stale.write_text("4194999\n")
    told = Files(place, pid_file=stale, mqtt_url="mqtt://127.0.0.1:1")
    await told.put([Account("u", "p", ())])
    assert (tmp_path / "passwords").read_text().startswith("u:$7$101$")


async def test_files_that_cannot_be_written_are_a_reason_to_try_later(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = Credentials(tmp_path / "file" / "passwords", tmp_path / "acl")
    told = Files(place, pid_file=None, mqtt_url="mqtt://127.0.0.1:1")
    with pytest.raises(StoreUnavailable, match="files cannot be written"):
        await told.put([Account("u", "p", ())])


def test_the_files_must_be_named() -> None:
    with pytest.raises(ConfigError, match="MQTT_PASSWORD_FILE and MQTT_ACL_FILE"):
        check(Settings.load(mqtt_accounts="files", mqtt_url="mqtt://127.0.0.1:1"))


async def test_departures_are_told_to_whoever_remembers_agents(
    rest: Rest, pool: Pool, connection: asyncpg.Connection, agent: AgentDouble
) -> None:
    ours, others = Departures(pool), Departures(pool)
    assert await ours.newest() == {}
    await rest.ask("DELETE", f"/api/v1/agents/{agent.uuid}")
    for one in (ours, others):
        assert await one.newest() == {rest.tenant: [agent.uuid]}
    # Again for a minute, because a transaction may commit later than its time.
    assert await ours.newest() == {rest.tenant: [agent.uuid]}
    await connection.execute("UPDATE agent_departures SET departed_at = now() - '61 s'::interval")
    assert await ours.newest() == {}
    await connection.execute("UPDATE agent_departures SET departed_at = now() - '8 d'::interval")
    await connection.execute(
        "UPDATE provisioning_attempts SET created_at = now() - '91 d'::interval"
    )
    await prune(pool, Settings())
    assert await connection.fetchval("SELECT count(*) FROM agent_departures") == 0
    assert await connection.fetchval("SELECT count(*) FROM provisioning_attempts") == 0


async def test_a_registration_does_not_need_the_broker(
    rest: Rest, pool: Pool, streams: Streams, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings.load(
        jwt_secret=KEY,
        mqtt_url="mqtt://127.0.0.1:1",
        mqtt_accounts="files",
        mqtt_password_file=str(tmp_path / "file" / "passwords"),
        mqtt_acl_file=str(tmp_path / "acl"),
    )
    parts = AgentParts.of(settings, pool, streams)
    routes = [route for part in agent_handlers(parts) for route in routes_of(part)]
    table = Table(routes, rest.identity.callers)
    agent = AgentDouble(
        ask=ByTable(Rest(table, rest.tenant, rest.identity)),
        provisioning_key=await provisioning_key(rest),
    )
    await agent.come_in()
    assert await connection.fetchval("SELECT revision > told FROM mqtt_users")
    (tmp_path / "file").unlink()
    await parts.reconciler.catch_up()
    assert await connection.fetchval("SELECT revision = told FROM mqtt_users")
    assert f"agent_{agent.uuid}:$7$" in (tmp_path / "file" / "passwords").read_text()
