//! Two directors: what one tells, the other takes over.

use super::*;
use crate::flow::Tuple;
use crate::path::{SharedFlow, Taken, Walk};
use crate::time::Timeout;

fn sharing(generation: u32) -> Arc<Tables> {
    let mut tables = tables(generation, &[11, 12], 1);
    tables.settings.is_sharing = true;
    Arc::new(tables)
}

fn director() -> Director {
    let mut director = Director::new();
    director.path.adopt(sharing(2));
    director
}

fn changed(director: &mut Director) -> Vec<SharedFlow> {
    let mut told = Vec::new();
    while director.path.tell_changed(2, &mut |flow| told.push(flow)) {}
    told
}

fn walked(director: &mut Director, walk: Walk) -> Vec<SharedFlow> {
    let mut told = Vec::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = director.path.walk(at, 7, walk, &mut |flow| told.push(flow));
    }
    told
}

/// The id of the real server, as the control plane would find it.
fn id_of(director: &Director, flow: &SharedFlow) -> ServerId {
    let Tuple { protocol, dst: address, dport: port, .. } = flow.original;
    let key = ServiceKey::new(protocol, address, port);
    let service = director.path.tables.services.find(&key).expect("the service");
    let is_it = |server: &&Server| (server.address, server.port) == flow.server;
    service.servers.iter().find(is_it).expect("the server").id
}

fn take_over(director: &mut Director, flow: &SharedFlow) -> Taken {
    let taken = director.path.take_over(flow, id_of(director, flow), director.now);
    director.path.check_connections().expect("a table in order");
    taken
}

fn establish(director: &mut Director, sport: u16) {
    let out = director.receive(WAN, &[from_client(sport, "S")]);
    let IpAddr::V4(server) = read(&out.sent[0].1).2 else { panic!("IPv4") };
    director.receive(LAN, &[from_server(server.octets()[3], sport, "SA")]);
    director.receive(WAN, &[from_client(sport, "A")]);
}

fn datagram(sport: u16) -> Vec<u8> {
    let builder =
        etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1).ipv4([192, 0, 2, 100], [192, 0, 2, 10], 64);
    let mut frame = Vec::new();
    builder.udp(sport, 80).write(&mut frame, b"payload").unwrap();
    frame
}

/// Active and inactive connections of a real server.
fn counts(director: &Director, server: u32) -> (u64, u64) {
    let cell = director.counters[0].server(ServerId(server));
    (cell.active.get(), cell.inactive.get())
}

#[test]
fn a_connection_goes_on_at_the_director_that_was_told_of_it() {
    let (mut master, mut backup) = (director(), director());
    establish(&mut master, 4000);
    establish(&mut master, 4001);
    let told = changed(&mut master);
    assert_eq!(told.len(), 2, "not of the handshake");
    assert!(told.iter().all(|flow| flow.is_active && flow.timeout == Timeout::from_secs(900)));
    for flow in &told {
        assert_eq!(take_over(&mut backup, flow), Taken::New);
    }
    assert_eq!(backup.states(), ["ESTABLISHED", "ESTABLISHED"]);
    assert_eq!((counts(&backup, 2), counts(&backup, 3)), ((1, 0), (1, 0)));
    for (sport, server) in [(4000, "10.0.0.11"), (4001, "10.0.0.12")] {
        let out = backup.receive(WAN, &[from_client(sport, "A")]);
        assert_eq!(read(&out.sent[0].1), (ip("192.0.2.100"), sport, ip(server), 8080, 63));
    }
    let out = backup.receive(LAN, &[from_server(12, 4001, "A")]);
    assert_eq!(read(&out.sent[0].1).0, ip("192.0.2.10"));
    // A state's change is told both ways, and what was told is not told on.
    backup.receive(WAN, &[from_client(4000, "FA")]);
    let closing = changed(&mut backup);
    assert_eq!(closing.iter().map(|flow| flow.original.sport).collect::<Vec<_>>(), [4000]);
    assert_eq!(take_over(&mut master, &closing[0]), Taken::Updated);
    assert_eq!(master.states(), ["CLOSE_WAIT", "ESTABLISHED"]);
    assert_eq!((counts(&master, 2), counts(&master, 3)), ((0, 1), (1, 0)));
    assert!(changed(&mut master).is_empty());
}

#[test]
fn nothing_is_noted_while_nobody_is_to_be_told() {
    let mut alone = Director::new();
    establish(&mut alone, 4000);
    assert!(changed(&mut alone).is_empty());
}

#[test]
fn more_changes_than_there_is_room_for_are_counted() {
    let mut master = director();
    establish(&mut master, 4000);
    for _ in 0..2100 {
        // Two states that are told of, and one that is not.
        master.receive(WAN, &[from_client(4000, "FA")]);
        master.receive(LAN, &[from_server(11, 4000, "S")]);
        master.receive(WAN, &[from_client(4000, "S")]);
    }
    assert_eq!(master.counters[0].flows.changes_untold.get(), 1 + 2 * 2100 - 4096);
    assert_eq!(changed(&mut master).len(), 4096);
}

#[test]
fn a_walk_tells_of_those_that_had_packets_since_the_walk_before() {
    let mut master = director();
    establish(&mut master, 4000);
    establish(&mut master, 4001);
    master.receive(WAN, &[from_client(4002, "S"), datagram(5000), datagram(5001)]);
    let sports = |told: Vec<SharedFlow>| {
        let mut sports: Vec<_> = told.iter().map(|flow| flow.original.sport).collect();
        sports.sort();
        sports
    };
    let began = master.now;
    assert_eq!(sports(walked(&mut master, Walk::Since(began))), [4000, 4001], "datagrams not at once");
    master.now = Tick(1000);
    master.receive(WAN, &[from_client(4001, "A"), datagram(5001)]);
    assert_eq!(sports(walked(&mut master, Walk::Since(Tick(900)))), [4001, 5001]);
    assert_eq!(sports(walked(&mut master, Walk::Whole)), [4000, 4001, 5000, 5001]);
}

#[test]
fn hearsay_is_told_on_as_such_and_only_when_all_is_told() {
    let (mut master, mut backup) = (director(), director());
    establish(&mut master, 4000);
    let told = changed(&mut master);
    take_over(&mut backup, &told[0]);
    let since = Walk::Since(Tick(0));
    assert!(walked(&mut backup, since).is_empty());
    let hearsay = walked(&mut backup, Walk::Whole);
    assert_eq!(hearsay, [SharedFlow { is_hearsay: true, ..told[0] }]);
    master.receive(WAN, &[from_client(4000, "FA")]);
    assert_eq!(take_over(&mut master, &hearsay[0]), Taken::Ignored, "its own knowledge is newer");
    assert_eq!(master.states(), ["CLOSE_WAIT"]);
    assert_eq!(take_over(&mut director(), &hearsay[0]), Taken::New);
    // A packet makes it known at first hand.
    backup.receive(WAN, &[from_client(4000, "A")]);
    assert_eq!(walked(&mut backup, since), told);
}

#[test]
fn what_was_told_ends_when_its_time_is_over_and_later_when_told_again() {
    let (mut master, mut backup) = (director(), director());
    establish(&mut master, 4000);
    let told = SharedFlow { timeout: Timeout::from_secs(10), ..changed(&mut master)[0] };
    take_over(&mut backup, &told);
    for now in (100..3000).step_by(10) {
        backup.now = Tick(now);
        if now == 800 {
            assert_eq!(take_over(&mut backup, &told), Taken::Updated);
        }
        backup.turn();
        let is_left = !backup.states().is_empty();
        assert!(is_left || now >= 800 + 1000, "at {now}");
        assert!(!is_left || now < 800 + 1000 + 20, "at {now}");
    }
    assert_eq!(counts(&backup, 2), (0, 0));
}

#[test]
fn another_connection_of_the_same_client_takes_the_place_of_the_one_before() {
    let (mut master, mut backup) = (director(), director());
    establish(&mut master, 4000);
    let told = changed(&mut master)[0];
    let elsewhere = SharedFlow { server: (ip("10.0.0.12"), 8080), ..told };
    assert_eq!(take_over(&mut backup, &told), Taken::New);
    assert_eq!(take_over(&mut backup, &SharedFlow { is_active: false, ..elsewhere }), Taken::Ignored);
    assert_eq!((counts(&backup, 2), counts(&backup, 3)), ((1, 0), (0, 0)));
    assert_eq!(take_over(&mut backup, &elsewhere), Taken::New);
    assert_eq!((counts(&backup, 2), counts(&backup, 3)), ((0, 0), (1, 0)));
}

#[test]
fn what_cannot_be_is_not_taken_over() {
    let (mut master, mut backup) = (director(), director());
    establish(&mut master, 4000);
    let told = changed(&mut master)[0];
    let server = id_of(&backup, &told);
    let now = backup.now;
    let mut refused = |flow: SharedFlow, server| backup.path.take_over(&flow, server, now);
    assert_eq!(refused(told, ServerId(3)), Taken::NoServer, "another's id");
    assert_eq!(refused(told, ServerId(999)), Taken::NoServer);
    assert_eq!(refused(SharedFlow { state: 11, ..told }, server), Taken::Unsound);
    assert_eq!(refused(SharedFlow { timeout: Timeout(0), ..told }, server), Taken::Unsound);
    assert_eq!(
        refused(SharedFlow { is_template: true, ..told }, server),
        Taken::Unsound,
        "a client with a port"
    );
    let multicast = Tuple { src: ip("224.0.0.1"), ..told.original };
    assert_eq!(refused(SharedFlow { original: multicast, ..told }, server), Taken::Unsound);
    let gre = Tuple { protocol: Protocol::GRE, ..told.original };
    assert_eq!(refused(SharedFlow { original: gre, ..told }, server), Taken::Unsound);
    for sport in 0..100 {
        let original = Tuple { sport, ..told.original };
        assert_eq!(refused(SharedFlow { original, ..told }, server), Taken::New);
    }
    assert_eq!(refused(told, server), Taken::NoRoom);
    assert_eq!(backup.states().len(), 100);
}

#[test]
fn a_client_keeps_its_real_server_at_the_director_that_was_told_of_its_template() {
    let with_persistence = || {
        let mut director = Director::new();
        let mut tables = persistent::persistent(2, |_| ());
        tables.settings.is_sharing = true;
        director.path.adopt(tables.into());
        director
    };
    let (mut master, mut backup) = (with_persistence(), with_persistence());
    establish(&mut master, 4000);
    let told = changed(&mut master);
    let kinds: Vec<_> = told.iter().map(|flow| (flow.is_template, flow.original.protocol)).collect();
    assert_eq!(kinds, [(true, Protocol::TCP), (false, Protocol::TCP)], "the template as soon as it is there");
    assert_eq!(told[0].original.src, ip("192.0.2.0"), "the client under the mask");
    // The first pick of the backup's own would be the same server.
    let other = tcp(C2D, ("203.0.113.1", 5000), ("192.0.2.10", 80), "S");
    assert_eq!(read(&backup.receive(WAN, &[other]).sent[0].1).2, ip("10.0.0.11"));
    assert_eq!(told.iter().map(|flow| take_over(&mut backup, flow)).collect::<Vec<_>>(), [Taken::New; 2]);
    assert_eq!(backup.counters[0].server(ServerId(2)).persistent.get(), 2);
    assert_eq!(take_over(&mut backup, &told[0]), Taken::Updated);
    let elsewhere = SharedFlow { server: (ip("10.0.0.12"), 8080), ..told[0] };
    assert_eq!(take_over(&mut backup, &elsewhere), Taken::Ignored, "it has chosen");
    let out = backup.receive(WAN, &[from_client(4001, "S")]);
    assert_eq!(read(&out.sent[0].1).2, ip("10.0.0.11"), "not the next one in turn");
    // Used here, it is told on; assured since its connection was established.
    let templates: Vec<_> =
        walked(&mut backup, Walk::Since(Tick(0))).into_iter().filter(|flow| flow.is_template).collect();
    assert_eq!(templates.len(), 2, "the other client's too");
    assert!(walked(&mut master, Walk::Whole).iter().any(|flow| flow.is_template && flow.state == 1));
    // It ends like any other.
    for now in (100..30_000).step_by(10) {
        backup.now = Tick(now);
        backup.turn();
    }
    assert_eq!(backup.counters[0].server(ServerId(2)).persistent.get(), 0);
}

#[test]
fn hearsay_does_not_push_out_a_connection_whose_answers_look_the_same() {
    let (mut master, mut backup) = (director(), director());
    establish(&mut master, 4000);
    let told = changed(&mut master)[0];
    establish(&mut backup, 4000);
    // The same client, by another virtual service, to the same real server.
    let elsewhere = Tuple { dst: ip("192.0.2.11"), ..told.original };
    let other = SharedFlow { original: elsewhere, ..told };
    let (server, now) = (id_of(&backup, &told), backup.now);
    let hearsay = SharedFlow { is_hearsay: true, ..other };
    assert_eq!(backup.path.take_over(&hearsay, server, now), Taken::Ignored);
    assert_eq!(backup.path.take_over(&other, server, now), Taken::New, "the newer one gets the answers");
    assert_eq!(backup.states(), ["ESTABLISHED"]);
    backup.path.check_connections().expect("a table in order");
}
