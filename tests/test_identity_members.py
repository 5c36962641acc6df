"""Records and the member set they make: who is in, whatever the order."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discod.errors import Broken, LocalError, Refused
from discod.identity import (
    Admit,
    Identity,
    Invite,
    Members,
    Record,
    found_mesh,
    make_addresses,
    make_admit,
    make_invite,
    make_membership,
    make_offer,
    make_revocation,
    parse_record,
    short_id,
)
from discod.identity.members import MAX_WAITING
from discod.identity.records import MAX_RECORD_BYTES, Membership, MeshInfo, is_name, sign_record

VECTOR_HASHES = [
    "bc9f380b96ced30b",
    "32810c0005334410",
    "8f8609b8764a2eee",
    "8b6a3e79ab2d393a",
    "601c1e48a997c957",
    "2d7c4339163d608e",
    "64f3144304d53f89",
]
VECTOR_DIGEST = "730e30075f2f9e7eae5de82def20879314be8fc1f81fdb69b85b2b01ebf179a2"
NOW = 1_900_000_000
ROOT, CREATOR, LAB, HOME, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in range(1, 6))
INVITE, SECOND, STRICT = (Identity.from_seed(bytes([n]) * 32) for n in (11, 12, 13))
MESH = ROOT.peer_id
FOUNDING = found_mesh(ROOT, CREATOR, "oncology", "clinic-a", NOW, bytes([10]) * 32)


def mesh(*more: bytes) -> Members:
    members = Members(ROOT.public)
    for record in [*FOUNDING, *more]:
        members.add(record)
    return members


def invite(key: Identity = INVITE, **options: object) -> bytes:
    return make_invite(ROOT, key.public, **({"expires": NOW + 100} | options))  # type: ignore[arg-type]


def join(peer: Identity, key: Identity = INVITE, slot: int = 0, name: str = "peer") -> bytes:
    return make_membership(key, peer, MESH, name, slot=slot, now=NOW)


def admit(record: bytes, by: Identity = CREATOR, time: int = NOW + 1) -> bytes:
    return make_admit(by, parse_record(record), time)


def test_the_founder_is_an_admin_that_trains() -> None:
    members = mesh()
    assert members.name_of_mesh == "oncology"
    assert members.trainers() == {CREATOR.peer_id}
    assert members.role(CREATOR.peer_id) == "admin"
    assert members.name(CREATOR.peer_id) == "clinic-a"
    assert members.public_key(CREATOR.peer_id) == CREATOR.public
    assert members.why_not(CREATOR.peer_id) is None


def test_a_membership_counts_once_a_member_admits_it() -> None:
    members = mesh(invite(), lab := join(LAB, name="lab-b"))
    assert not members.is_member(LAB.peer_id)
    assert members.why_not(LAB.peer_id) == "no member has admitted it yet"
    assert members.admissible(parse_record(lab), NOW) is None
    assert members.add(admit(lab))
    assert members.role(LAB.peer_id) == "trainer"
    assert not members.add(admit(lab))


def test_a_plain_trainer_may_admit_too() -> None:
    members = mesh(invite(uses=2), lab := join(LAB), admit(lab), home := join(HOME, slot=1), admit(home, LAB))
    assert members.trainers() == {CREATOR.peer_id, LAB.peer_id, HOME.peer_id}


def test_an_observer_is_no_trainer() -> None:
    members = mesh(invite(role="observer"), lab := join(LAB), admit(lab))
    assert members.members() == {CREATOR.peer_id, LAB.peer_id}
    assert members.trainers() == {CREATOR.peer_id}


def test_an_admit_by_a_stranger_does_not_count() -> None:
    members = mesh(invite(), lab := join(LAB), admit(lab, OTHER))
    assert not members.is_member(LAB.peer_id)
    assert members.digest() == mesh(invite(), lab).digest()


def test_nobody_admits_itself() -> None:
    lab = join(LAB)
    assert not mesh(invite(), lab, admit(lab, LAB)).is_member(LAB.peer_id)


@pytest.mark.parametrize(("by", "counts"), [(LAB, False), (CREATOR, True), (ROOT, True)])
def test_an_invite_with_approve_needs_an_admin(by: Identity, counts: bool) -> None:
    strict = invite(STRICT, approve=True)
    members = mesh(invite(), lab := join(LAB), admit(lab), strict, home := join(HOME, STRICT), admit(home, by))
    assert members.is_member(HOME.peer_id) == counts
    assert members.may_admit(by.public, parse_record(home)) == counts
    assert members.admissible(parse_record(home), NOW) == "an admin must approve it"
    assert members.admissible(parse_record(home), NOW, approved=True) is None


def test_expiry_is_tested_at_the_admit_only() -> None:
    lab = join(LAB)
    assert mesh(invite(), lab, admit(lab, time=NOW + 100)).is_member(LAB.peer_id)
    assert not mesh(invite(), lab, admit(lab, time=NOW + 101)).is_member(LAB.peer_id)
    assert mesh(invite(), lab).admissible(parse_record(lab), NOW + 101) == "the invite has expired"
    assert mesh(invite(), lab).admissible(parse_record(lab), NOW + 100) is None


def test_what_must_not_be_admitted_is_named() -> None:
    lab, elsewhere = join(LAB), make_membership(INVITE, LAB, OTHER.peer_id, "x", slot=0, now=NOW)
    assert mesh().admissible(parse_record(lab), NOW) == "its invite is not known here"
    assert mesh(invite()).admissible(parse_record(elsewhere), NOW) == "it is no membership of this mesh"
    assert mesh(invite(), join(HOME)).admissible(parse_record(lab), NOW) == "the invite is used up"
    two = mesh(invite(uses=3), join(HOME))
    assert two.admissible(parse_record(lab), NOW) == "slot 0 is not free; free: [1, 2]"
    assert two.admissible(parse_record(join(LAB, slot=3)), NOW) == "slot 3 is not free; free: [1, 2]"
    cancelled = mesh(invite(), make_revocation(ROOT, "invite", INVITE.public, NOW))
    assert cancelled.admissible(parse_record(lab), NOW) == "the invite was revoked"
    gone = mesh(invite(), make_revocation(ROOT, "peer", LAB.public, NOW))
    assert gone.admissible(parse_record(lab), NOW) == "this peer was revoked"


def test_two_peers_in_one_slot_void_it() -> None:
    members = mesh(invite(), lab := join(LAB), admit(lab))
    members.add(home := join(HOME))
    members.add(admit(home))
    assert members.members() == {CREATOR.peer_id}
    assert "used by two peers" in (members.why_not(LAB.peer_id) or "")


def test_one_peer_twice_in_its_slot_voids_nothing() -> None:
    again = make_membership(INVITE, LAB, MESH, "peer", slot=0, now=NOW + 5)
    members = mesh(invite(), lab := join(LAB), admit(lab))
    assert not members.add(again)
    assert members.is_member(LAB.peer_id)


def test_a_voided_peers_admits_stay() -> None:
    members = mesh(invite(uses=2), lab := join(LAB), admit(lab), home := join(HOME, slot=1), admit(home, LAB))
    members.add(join(OTHER))
    assert members.trainers() == {CREATOR.peer_id, HOME.peer_id}


def test_a_revoked_peer_is_out_for_good_with_whom_it_alone_admitted() -> None:
    members = mesh(invite(uses=2), lab := join(LAB), admit(lab), home := join(HOME, slot=1), admit(home, LAB))
    orphans = members.orphans(LAB.peer_id)
    assert [record.data for record in orphans] == [home]
    members.add(make_revocation(ROOT, "peer", LAB.public, NOW + 2))
    assert members.is_revoked(LAB.peer_id)
    assert members.members() == {CREATOR.peer_id}
    members.add(make_admit(ROOT, orphans[0], NOW + 2))
    assert members.members() == {CREATOR.peer_id, HOME.peer_id}
    members.add(invite(SECOND))
    members.add(lab2 := join(LAB, SECOND))
    members.add(admit(lab2))
    assert not members.is_member(LAB.peer_id)
    assert members.public_key(LAB.peer_id) == LAB.public


def test_a_revoked_invite_stops_later_admits_only() -> None:
    revocation = make_revocation(ROOT, "invite", INVITE.public, NOW + 10)
    lab, home = join(LAB), join(HOME, slot=1)
    members = mesh(invite(uses=2), lab, home, admit(lab, time=NOW + 10), admit(home, time=NOW + 11), revocation)
    assert members.members() == {CREATOR.peer_id, LAB.peer_id}


def test_of_two_memberships_the_wider_role_speaks() -> None:
    admin = join(LAB, SECOND, name="new")
    members = mesh(
        invite(role="observer"), lab := join(LAB, name="old"), admit(lab), invite(SECOND, role="admin"), admin
    )
    assert members.role(LAB.peer_id) == "observer"
    members.add(admit(admin))
    assert members.role(LAB.peer_id) == "admin"


def test_tasks_are_those_of_admins_and_the_root() -> None:
    members = mesh(invite(), lab := join(LAB), admit(lab))
    for publisher in (CREATOR, LAB, ROOT):
        members.add(make_offer(publisher, MESH, b"task of " + publisher.public, NOW))
    assert {offer.publisher for offer in members.tasks()} == {CREATOR.public, ROOT.public}
    assert members.may_publish(CREATOR.public)
    assert not members.may_publish(LAB.public)


def test_addresses_follow_the_highest_seq_and_lapse() -> None:
    new = make_addresses(CREATOR, MESH, ("192.0.2.1:7340", "[2001:db8::1]:7340"), seq=7, now=NOW)
    members = mesh(new)
    before = members.digest()
    assert not members.add(make_addresses(CREATOR, MESH, ("192.0.2.9:1",), seq=6, now=NOW))
    assert members.addresses(CREATOR.peer_id) == ("192.0.2.1:7340", "[2001:db8::1]:7340")
    assert members.add(make_addresses(CREATOR, MESH, (), seq=8, now=NOW))
    assert members.addresses(CREATOR.peer_id) == ()
    members.add(make_addresses(CREATOR, MESH, ("192.0.2.1:1",), seq=9, now=NOW))
    assert members.addresses(CREATOR.peer_id, NOW + 24 * 3600) == ("192.0.2.1:1",)
    assert members.addresses(CREATOR.peer_id, NOW + 24 * 3600 + 1) == ()
    assert members.addresses(LAB.peer_id) == ()
    assert members.digest() == before
    assert members.hashes() != mesh().hashes()


RICH = [
    *FOUNDING,
    invite(uses=3),
    invite(STRICT, approve=True, role="admin"),
    lab := join(LAB),
    join(HOME, slot=1),
    join(OTHER, slot=1),
    strict := join(HOME, STRICT),
    join(Identity.from_seed(b"\x09" * 32), slot=1),
    admit(lab),
    admit(lab, time=NOW + 7),
    admit(join(HOME, slot=1), LAB),
    admit(strict, CREATOR),
    admit(strict, LAB),
    make_revocation(ROOT, "invite", INVITE.public, NOW + 50),
    make_revocation(ROOT, "invite", INVITE.public, NOW + 60),
    make_revocation(ROOT, "peer", OTHER.public, NOW),
    make_addresses(LAB, MESH, ("192.0.2.1:1",), seq=1, now=NOW),
    make_addresses(LAB, MESH, ("192.0.2.2:1",), seq=2, now=NOW),
    make_offer(HOME, MESH, b"task", NOW),
    make_offer(HOME, MESH, b"task", NOW + 1),
]


def _state(members: Members) -> tuple[object, ...]:
    return (members.digest(), members.hashes(), members.members(), members.trainers(), tuple(members.records()))


@settings(max_examples=60, deadline=None)
@given(st.permutations(RICH), st.integers(0, len(RICH)))
def test_the_set_depends_on_no_order_and_no_repeats(order: list[bytes], again: int) -> None:
    members = Members(ROOT.public)
    for record in [*order, *order[:again]]:
        members.add(record)
    assert _state(members) == _state(mesh(*RICH))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(RICH)), st.lists(st.sampled_from(RICH)))
def test_two_peers_that_exchange_what_the_other_lacks_agree(left: list[bytes], right: list[bytes]) -> None:
    one, two = mesh(*left), mesh(*right)
    for _ in range(2):
        for record in one.records_not_in(two.hashes()):
            two.add(record)
        for record in two.records_not_in(one.hashes()):
            one.add(record)
    assert one.digest() == two.digest()
    assert one.hashes() == two.hashes()
    assert one.members() == two.members()


def test_a_newcomer_learns_everything_from_records_alone() -> None:
    members = Members(ROOT.public)
    assert members.name_of_mesh == short_id(MESH)
    for record in mesh(*RICH).records():
        assert members.add(record)
    assert _state(members) == _state(mesh(*RICH))


def test_records_of_another_mesh_are_refused() -> None:
    foreign = found_mesh(OTHER, CREATOR, "other", "x", NOW, bytes([10]) * 32)
    for record in foreign:
        with pytest.raises(Refused, match="another mesh"):
            mesh().add(record)


def test_records_without_a_reason_are_bounded() -> None:
    members = mesh()
    rng = random.Random(1)
    for _ in range(MAX_WAITING):
        members.add(sign_record(Admit(MESH, rng.randbytes(32), OTHER.public, NOW), OTHER))
    with pytest.raises(Refused, match="too many"):
        members.add(join(LAB))
    members.add(invite())
    assert members.digest() == mesh(invite()).digest()


def test_a_holder_of_a_seed_cannot_fill_the_set() -> None:
    members = mesh(invite())
    for n in range(30, 50):
        members.add(join(Identity.from_seed(bytes([n]) * 32)))
    assert len(members.records()) == len(FOUNDING) + 1 + 2


def test_bad_records_are_refused_or_broken() -> None:
    good = join(LAB)
    body, signatures = msgspec.msgpack.decode(good)
    pack = msgspec.msgpack.encode
    for bad, kind in (
        (b"", Broken),
        (b"\xc1", Broken),
        (bytes(MAX_RECORD_BYTES + 1), Broken),
        (pack([body]), Broken),
        (pack([body, signatures, 1]), Broken),
        (pack([body, signatures[:1]]), Refused),
        (pack([body, [s[:63] for s in signatures]]), Broken),
        (pack([body, signatures[::-1]]), Broken),
        (pack([body[:-1] + bytes([body[-1] ^ 1]), signatures]), Broken),
        (pack([body, signatures]) + b"\0", Broken),
        (b"\xdc\x00\x02" + good[1:], Refused),
        (pack([pack(["membership", MESH]), signatures]), Broken),
        (pack([pack(["unknown", MESH]), signatures]), Broken),
    ):
        with pytest.raises(kind):
            parse_record(bad)


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    with pytest.raises((Refused, Broken)):
        parse_record(data)


@given(st.integers(0, len(RICH) - 1), st.data())
def test_a_changed_byte_never_passes(which: int, data: st.DataObject) -> None:
    record = bytearray(RICH[which])
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises((Refused, Broken)):
        parse_record(bytes(record))


def test_our_own_bad_records_are_our_bug() -> None:
    with pytest.raises(LocalError, match="wrong keys"):
        sign_record(Invite(ROOT.public, "trainer", 1, NOW, False, INVITE.public), LAB)
    with pytest.raises(LocalError, match="bad Membership"):
        join(LAB, name="x" * 65)
    with pytest.raises(LocalError, match="bad MeshInfo"):
        sign_record(MeshInfo(ROOT.public, "a\nb", CREATOR.public), ROOT)


@pytest.mark.parametrize(
    ("name", "good"),
    [("clinic-a", True), ("Zürich 2", True), ("", False), (" x", False), ("a\x1b[31m", False), ("a\u202eb", False)],
)
def test_names_are_printable(name: str, good: bool) -> None:
    assert is_name(name) == good


def test_vectors_of_records() -> None:
    records = [*FOUNDING, invite(), join(LAB), make_revocation(ROOT, "peer", LAB.public, NOW)]
    assert [parse_record(record).hash.hex()[:16] for record in records] == VECTOR_HASHES
    assert mesh().digest().hex() == VECTOR_DIGEST


def test_a_record_tells_its_mesh() -> None:
    for data in RICH:
        record = parse_record(data)
        assert isinstance(record, Record)
        assert record.mesh == MESH
    assert isinstance(parse_record(join(LAB)).body, Membership)
