//! Two directors: what one tells, the other takes over.

use super::calls::{by_call, message};
use super::edited::{FTP, Seg, frame, handshake, proxy_of, say, seen, with};
use super::full_nat::{answer, by_full_nat, one};
use super::translated::translating;
use super::*;
use crate::flow::edit::Edit;
use crate::flow::{Direction, Hasher, Tuple};
use crate::path::{SharedFlow, Taken, Walk};
use crate::tables::{FIRST_LOCAL_PORT, ProxyVersion};
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

pub(super) fn changed(director: &mut Director) -> Vec<SharedFlow> {
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

pub(super) fn take_over(director: &mut Director, flow: &SharedFlow) -> Taken {
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

pub(super) fn datagram(sport: u16) -> Vec<u8> {
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
        let local = (original.src, sport);
        assert_eq!(refused(SharedFlow { original, local, ..told }, server), Taken::New);
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

fn sharing_by(mut tables: Tables) -> Director {
    tables.settings.is_sharing = true;
    let mut director = Director::new();
    director.path.adopt(tables.into());
    director
}

/// The id of a real server of the first service.
fn id_at(address: IpAddr) -> ServerId {
    ServerId(if address == ip("10.0.0.11") { 2 } else { 3 })
}

/// So many workers of a director that has nothing in common with another one but its tables.
fn workers_by(number: usize, mut tables: Tables) -> (Vec<Path<Frame>>, Owners) {
    const SEED: u64 = 7;
    tables.settings.is_sharing = true;
    let (counters, uses) = (counters(number), Arc::new(Uses::new(number, 100)));
    let tables = Arc::new(tables);
    let begin = |worker| {
        let config = PathConfig { hash_seed: SEED, ..config(worker, &counters, &uses) };
        let mut path = Path::new(config);
        path.adopt(tables.clone());
        path
    };
    ((0..number as u16).map(begin).collect(), Owners::new(Hasher::new(SEED), number, None))
}

type Ends = (IpAddr, u16, IpAddr, u16, u8);

/// Connections by FullNAT from these ports on, of a director that tells of them.
fn by_local_endpoints(ports: std::ops::Range<u16>) -> (Vec<SharedFlow>, Vec<Ends>) {
    let mut master = sharing_by(by_full_nat(2, &[]));
    let sent = ports.map(|sport| {
        let syn = one(&master.receive(WAN, &[from_client(sport, "S")]), LAN);
        master.receive(LAN, &[answer(syn, "SA")]);
        one(&master.receive(WAN, &[from_client(sport, "A")]), LAN)
    });
    let sent: Vec<_> = sent.collect();
    (changed(&mut master), sent)
}

#[test]
fn a_connection_by_full_nat_goes_on_at_any_number_of_workers_with_another_seed() {
    let (told, sent) = by_local_endpoints(4000..4020);
    assert_eq!(told.len(), 20);
    assert!(told.iter().zip(&sent).all(|(flow, sent)| flow.is_full_nat() && flow.local == (sent.0, sent.1)));
    for number in [1, 2, 3, 5] {
        let (mut paths, owners) = workers_by(number, by_full_nat(2, &[]));
        let mut elsewhere = 0;
        for expected in [Taken::New, Taken::Updated] {
            for flow in &told {
                let hearers = flow.hearers(&owners);
                elsewhere += hearers.len() - 1;
                for worker in hearers {
                    let path = &mut paths[worker.index()];
                    let server = id_at(flow.server.0);
                    assert_eq!(path.take_over(flow, server, Tick(100)), expected);
                    path.check_connections().expect("a table in order");
                }
            }
        }
        assert_eq!(
            elsewhere > 0,
            number > 1,
            "some at another worker than the one that their answers come to"
        );
        for (n, (flow, &sent)) in told.iter().zip(&sent).enumerate() {
            let client = flow.original.sport;
            let there = deliver(&mut paths, n % number, WAN, &from_client(client, "A"));
            assert_eq!(read(&there[0].1), sent, "from the local endpoint that it had");
            let back = deliver(&mut paths, n / 3 % number, LAN, &answer(sent, "A"));
            assert_eq!(read(&back[0].1), (ip("192.0.2.10"), 80, ip("192.0.2.100"), client, 63));
            assert_eq!(back[0].0, there[0].0, "one worker has it");
        }
        let mut listed = Vec::new();
        for path in &paths {
            path.list(0, u32::MAX, Tick(100), &mut |view| listed.push((view.client.1, view.local)));
        }
        listed.sort();
        let all: Vec<_> = told.iter().map(|flow| (flow.original.sport, Some(flow.local))).collect();
        assert_eq!(listed, all, "and nothing else is shown");
    }
}

#[test]
fn a_local_endpoint_of_a_connection_that_another_worker_took_over_is_nobody_elses() {
    let (told, _) = by_local_endpoints(4000..4020);
    let number = 2;
    let (mut paths, owners) = workers_by(number, by_full_nat(2, &[]));
    let mut kept = Vec::new();
    for flow in &told {
        let hearers = flow.hearers(&owners);
        if let [answered, _] = *hearers {
            let server = id_at(flow.server.0);
            assert_eq!(paths[answered.index()].take_over(flow, server, Tick(100)), Taken::New);
            kept.push((answered, flow.server, flow.local));
        }
    }
    assert!(kept.len() > 3);
    let key = ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80);
    for (worker, server, local) in kept {
        let Path { local_ports, flows, tables, .. } = &mut paths[worker.index()];
        let service = tables.services.find(&key).expect("the service").clone();
        let to = Tuple { dst: server.0, dport: server.1, ..told[0].original };
        for _ in 0..20_000 {
            let (after, _) =
                local_ports.choose(flows, tables, &service, to, Tick(100)).expect("there are many");
            assert!((after.src, after.sport) != local && after.sport >= FIRST_LOCAL_PORT);
        }
    }
}

#[test]
fn an_icmp_error_about_an_answer_finds_the_worker_of_its_connection() {
    let (told, sent) = by_local_endpoints(4000..4020);
    let (mut paths, owners) = workers_by(2, by_full_nat(2, &[]));
    let (flow, sent) =
        told.iter().zip(&sent).find(|(flow, _)| flow.hearers(&owners).len() == 2).expect("some");
    let server = id_at(flow.server.0);
    for worker in flow.hearers(&owners) {
        assert_eq!(paths[worker.index()].take_over(flow, server, Tick(100)), Taken::New);
    }
    let left = tcp(C2D, (&sent.0.to_string(), sent.1), (&sent.2.to_string(), sent.3), "A");
    let IpAddr::V4(local) = sent.0 else { panic!("IPv4") };
    let mut error = Vec::new();
    etherparse::PacketBuilder::ethernet2(server_mac(11), OUR_LAN)
        .ipv4([10, 0, 0, 200], local.octets(), 64)
        .icmpv4_raw(3, 4, [0, 0, 5, 0])
        .write(&mut error, &left[14..])
        .unwrap();
    for rx in [0, 1] {
        let out = deliver(&mut paths, rx, LAN, &error);
        assert_eq!(out[0].1.data()[30..34], [192, 0, 2, 100], "the client is told");
    }
}

#[test]
fn a_connection_into_the_other_family_goes_on_as_well() {
    for (client, vip) in [("192.0.2.100", "192.0.2.10"), ("2001:db8::100", "2001:db8::10")] {
        let (mut master, mut backup) =
            (sharing_by(translating(2, &[11, 12])), sharing_by(translating(2, &[11, 12])));
        let to = |flags| tcp(C2D, (client, 4000), (vip, 80), flags);
        let syn = one(&master.receive(WAN, &[to("S")]), LAN);
        let macs = (server_mac(11), OUR_LAN);
        let back = |flags| tcp(macs, (&syn.2.to_string(), syn.3), (&syn.0.to_string(), syn.1), flags);
        master.receive(LAN, &[back("SA")]);
        master.receive(WAN, &[to("A")]);
        let told = changed(&mut master);
        assert_eq!(told[0].server.0.is_ipv6(), !told[0].original.dst.is_ipv6());
        assert_eq!(take_over(&mut backup, &told[0]), Taken::New);
        assert_eq!(one(&backup.receive(WAN, &[to("A")]), LAN), syn);
        let answered = one(&backup.receive(LAN, &[back("A")]), WAN);
        assert_eq!((answered.0, answered.2), (ip(vip), ip(client)));
        // And back, now that it is known at first hand there.
        assert_eq!(walked(&mut backup, Walk::Whole), told);
    }
}

#[test]
fn whose_local_endpoint_is_not_told_is_not_taken_over_by_full_nat() {
    let mut master = director();
    establish(&mut master, 4000);
    let told = changed(&mut master)[0];
    let mut backup = sharing_by(by_full_nat(2, &[]));
    assert_eq!(take_over(&mut backup, &told), Taken::FullNat, "a kernel's, perhaps");
    let below = SharedFlow { local: (ip("10.0.0.1"), 1023), ..told };
    let mixed = SharedFlow { local: (ip("fd00::1"), 2000), ..told };
    for unsound in [below, mixed, SharedFlow { local: (ip("224.0.0.1"), 2000), ..told }] {
        assert_eq!(take_over(&mut backup, &unsound), Taken::Unsound);
    }
    // One that a local endpoint was told of stays what it is, also where the real server is masqueraded.
    let by_endpoint = SharedFlow { local: (ip("10.0.0.1"), 2000), ..told };
    let mut masquerades = director();
    assert_eq!(take_over(&mut masquerades, &by_endpoint), Taken::New);
    let sent = one(&masquerades.receive(WAN, &[from_client(4000, "A")]), LAN);
    assert_eq!((sent.0, sent.1), (ip("10.0.0.1"), 2000));
}

#[test]
fn a_call_keeps_its_real_server_at_the_director_that_was_told_of_its_template() {
    let mut master = sharing_by(by_call(2, false));
    let mut servers = Vec::new();
    for n in 0..6 {
        let sent = master.receive(WAN, &[message(100, 5000 + n, &format!("call-{n}"))]);
        servers.push(read(&sent.sent[0].1).2);
    }
    assert!(servers.contains(&ip("10.0.0.11")) && servers.contains(&ip("10.0.0.12")));
    let told: Vec<_> = changed(&mut master).into_iter().filter(|flow| flow.is_template).collect();
    assert_eq!(told.len(), 6);
    assert!(told.iter().all(|flow| flow.local == (ip("192.0.2.0"), 0) && flow.original.sport != 0));
    // Whose first choices would be others.
    let mut backup = sharing_by(by_call(2, true));
    for flow in &told {
        assert_eq!(take_over(&mut backup, flow), Taken::New);
        assert_eq!(take_over(&mut backup, flow), Taken::Updated);
    }
    for (n, server) in servers.into_iter().enumerate() {
        let sent = backup.receive(WAN, &[message(101, 6000 + n as u16, &format!("call-{n}"))]);
        assert_eq!(read(&sent.sent[0].1).2, server);
    }
    assert_eq!(walked(&mut backup, Walk::Whole).iter().filter(|flow| flow.is_template).count(), 6);
}

#[test]
fn an_ftp_control_connection_goes_on_behind_what_was_put_into_it() {
    let (mut master, mut backup) = (sharing_by(with(2, FTP)), sharing_by(with(2, FTP)));
    handshake(&mut master);
    let first = changed(&mut master);
    assert!(first[0].edit.is_some());
    let line = "227 Entering Passive Mode (10,0,0,11,156,64).\r\n";
    say(&mut master, false, line);
    let told = changed(&mut master);
    assert_eq!(told.len(), 1, "at once");
    let more = "192,0,2,10".len() as u32 - "10,0,0,11".len() as u32;
    let len = line.len() as u32;
    let next = |director: &mut Director| {
        let seg =
            Seg { seq: 7001 + len, ack: 1001, flags: "A", data: b"150 \r\n".to_vec(), ..Seg::default() };
        let server = director.receive(LAN, &[frame(false, false, &seg)]);
        let seg = Seg { seq: 1001, ack: 7001 + len + more, flags: "A", ..Seg::default() };
        let client = director.receive(WAN, &[frame(false, true, &seg)]);
        (seen(&server.sent[0].1).0.seq, seen(&client.sent[0].1).0.ack)
    };
    for flow in first.iter().chain(&told) {
        take_over(&mut backup, flow);
    }
    assert_eq!(next(&mut backup), (7001 + len + more, 7001 + len));
    // The same, as a kernel's director tells it: it knows no more than three numbers.
    let [from, back] =
        [Direction::Original, Direction::Reply].map(|way| told[0].edit.expect("one").shift(way).sequence());
    let kernels = SharedFlow { edit: Edit::of_kernels_ftp([from, back]), ..told[0] };
    let mut backup = sharing_by(with(2, FTP));
    assert_eq!(take_over(&mut backup, &kernels), Taken::New);
    assert_eq!(next(&mut backup), (7001 + len + more, 7001 + len));
    // One that was not edited yet is from now on, as its service says.
    let mut backup = sharing_by(with(2, FTP));
    assert_eq!(take_over(&mut backup, &SharedFlow { edit: None, ..told[0] }), Taken::New);
    let out = say(&mut backup, false, line);
    assert!(seen(&out.sent[0].1).0.data.ends_with(b"(192,0,2,10,156,64).\r\n"));
}

#[test]
fn a_connection_with_a_proxy_header_goes_on_behind_it() {
    let options = proxy_of(ProxyVersion::V2);
    let (mut master, mut backup) = (sharing_by(with(2, options)), sharing_by(with(2, options)));
    handshake(&mut master);
    let told = changed(&mut master);
    assert_eq!(take_over(&mut backup, &told[0]), Taken::New);
    let talk = |director: &mut Director| {
        let header = 28;
        let seg = Seg { seq: 7001, ack: 1001 + header, flags: "A", ..Seg::default() };
        let back = director.receive(LAN, &[frame(false, false, &seg)]);
        let seg = Seg { seq: 1001, ack: 7001, flags: "A", data: b"GET".to_vec(), ..Seg::default() };
        let there = director.receive(WAN, &[frame(false, true, &seg)]);
        let there: Vec<_> =
            there.sent.iter().map(|(_, frame)| (seen(frame).0.seq, seen(frame).0.data)).collect();
        (seen(&back.sent[0].1).0.ack, there)
    };
    let expected = talk(&mut master);
    assert_eq!(expected, (1001, vec![(1001 + 28, b"GET".to_vec())]));
    assert_eq!(talk(&mut backup), expected);
    // Room for edits ends before that for connections.
    let mut others = told[0];
    for sport in 0..19 {
        others.original.sport = sport;
        others.local.1 = sport;
        assert_eq!(take_over(&mut backup, &others), Taken::New);
    }
    others.original.sport = 100;
    others.local.1 = 100;
    assert_eq!(take_over(&mut backup, &others), Taken::NoRoom);
    assert_eq!((backup.states().len(), backup.counters[0].edits.full.get()), (20, 1));
}

#[test]
fn an_edit_reads_as_it_was_written_and_what_is_none_is_refused() {
    let mut master = sharing_by(with(2, FTP));
    handshake(&mut master);
    say(&mut master, false, "227 Entering Passive Mode (10,0,0,11,156,64).\r\n");
    let edit = changed(&mut master)[0].edit.expect("one");
    let bytes = edit.to_bytes();
    assert_eq!(Edit::from_bytes(&bytes), Some(edit));
    for (at, to) in
        [(0, 0), (0, 3), (0, 32), (1, 8), (1, 4), (2, 15), (3, 0x80), (14, 2), (36, 15), (37, 100)]
    {
        let mut bytes = bytes;
        bytes[at] = to;
        assert_eq!(Edit::from_bytes(&bytes), None, "{to} at {at}");
    }
}

/// A director that counts packets and tells of connections by their number.
fn counting(sync_threshold: u32, sync_period: u32) -> Director {
    let mut tables = Tables::clone(&sharing(2));
    let sysctls = &mut tables.settings.sysctls;
    (sysctls.sync_threshold, sysctls.sync_period, sysctls.conntrack.acct) = (sync_threshold, sync_period, 1);
    let mut director = Director::new();
    director.path.adopt(tables.into());
    director
}

#[test]
fn where_packets_are_counted_a_connection_is_told_of_when_its_client_has_sent_so_many() {
    for (first, every, told_at) in
        [(0, 0, &[2][..]), (3, 0, &[3]), (3, 4, &[3, 7]), (0, 4, &[2, 4, 8]), (2, 5, &[2, 7]), (9, 0, &[])]
    {
        let mut master = counting(first, every);
        let mut told = Vec::new();
        for packet in 1..=8 {
            match packet {
                1 => drop(master.receive(WAN, &[from_client(4000, "S")])),
                _ => drop(master.receive(WAN, &[from_client(4000, "A")])),
            }
            // What the real server says counts for nothing.
            master.receive(LAN, &[from_server(11, 4000, if packet == 1 { "SA" } else { "A" })]);
            told.extend(changed(&mut master).iter().map(|_| packet));
            let is_known = !walked(&mut master, Walk::Whole).is_empty();
            assert_eq!(is_known, packet >= first.max(2), "{first} {every}: who joins at {packet}");
        }
        told.dedup();
        assert_eq!(told, told_at, "{first} {every}");
        master.receive(WAN, &[from_client(4000, "FA")]);
        assert!(!changed(&mut master).is_empty(), "{first} {every}: that it ends is told at once");
    }
    let mut master = counting(3, 0);
    for packet in 1..=3 {
        master.receive(WAN, &[datagram(5000)]);
        assert_eq!(changed(&mut master).len() == 1, packet == 3, "UDP, {packet}");
    }
}

#[test]
fn where_no_packets_are_counted_their_number_is_not_waited_for() {
    let mut master = director();
    let mut tables = Tables::clone(&sharing(3));
    (tables.settings.sysctls.sync_threshold, tables.settings.sysctls.sync_period) = (3, 50);
    master.path.adopt(tables.into());
    establish(&mut master, 4000);
    assert_eq!(changed(&mut master).len(), 1);
    assert_eq!(walked(&mut master, Walk::Whole).len(), 1);
}
