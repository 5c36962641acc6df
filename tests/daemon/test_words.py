from discod.daemon.words import unreachable, waiting_for


def test_a_waiting_run_names_who_is_ready_who_is_away_and_who_was_not_asked() -> None:
    words = waiting_for(3, ["home-c", "lab-b"], accepted={"lab-b"}, linked={"home-c"})
    assert words == "waiting for 3 peers: 1 ready (you); lab-b accepted, offline; home-c has not accepted yet"


def test_ready_peers_are_counted_with_us() -> None:
    words = waiting_for(4, ["b", "c", "d"], accepted={"b", "c"}, linked={"b", "c", "d"})
    assert words == "waiting for 4 peers: 3 ready (you, b, c); d has not accepted yet"


def test_two_peers_wait_for_a_third_where_sums_are_secret() -> None:
    words = waiting_for(3, ["b", "c"], accepted={"b", "c"}, linked={"b"}, secure=True)
    assert words == "waiting for a third peer (secure): 2 ready (you, b); c accepted, offline"


def test_many_missing_members_are_counted_not_listed() -> None:
    words = waiting_for(3, ["a", "b", "c", "d"], accepted=(), linked=())
    assert words == "waiting for 3 peers: 1 ready (you); 4 members have not accepted yet"


def test_a_mesh_that_is_too_small_says_how_to_grow() -> None:
    assert waiting_for(3, ["b"], {"b"}, {"b"}).endswith("2 ready (you, b); the mesh has only 2: discod invite")


def test_signaling_trouble_says_what_goes_on_regardless() -> None:
    warning = unreachable("oncology", "ws://h:1", "refused")
    assert "ws://h:1 does not answer (refused)" in warning["text"]
    assert warning["try"]
