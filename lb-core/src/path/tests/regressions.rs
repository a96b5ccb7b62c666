//! Finds, each with the packets that showed it.

use super::*;

fn with_id(mut frame: Vec<u8>, id: u16) -> Vec<u8> {
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    crate::wire::ipv4::fill_checksum(&mut frame[14..34]);
    frame
}

#[test]
fn an_entry_freed_earlier_in_the_burst_is_not_taken_for_a_connection() {
    let mut d = Director::new();
    d.receive(WAN, &[from_client(4000, "S")]);
    d.receive(WAN, &[from_client(4000, "F")]);
    let out = d.receive(WAN, &[from_client(4000, "SR"), from_client(4000, "A")]);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 2));
    assert!(d.states().is_empty());
}

#[test]
fn waiting_fragments_are_released_once_however_many_first_ones_came_since() {
    let mut d = Director::new();
    let parts = datagram(3);
    for n in 0..80u16 {
        let burst: Vec<_> = (0..32).map(|m| with_id(parts[0].clone(), 10_000 + n * 32 + m)).collect();
        d.receive(WAN, &burst);
    }
    for n in 0..200u16 {
        d.receive(WAN, &[with_id(parts[1].clone(), n)]);
        let mut burst = vec![with_id(parts[0].clone(), n)];
        burst.extend((0..31).map(|m| with_id(parts[0].clone(), 20_000 + n * 32 + m)));
        assert_eq!(d.receive(WAN, &burst).sent.len(), 33);
    }
}

#[test]
fn two_datagrams_whose_first_fragments_share_a_burst_both_follow() {
    let mut d = Director::new();
    let parts = datagram(3);
    let mut sent = 0;
    for id in [1, 2] {
        sent += d.receive(WAN, &[with_id(parts[1].clone(), id), with_id(parts[2].clone(), id)]).sent.len();
    }
    sent += d.receive(WAN, &[with_id(parts[0].clone(), 1), with_id(parts[0].clone(), 2)]).sent.len();
    assert_eq!(sent, 6);
}

#[test]
fn a_large_datagram_in_reverse_order_follows_whole() {
    let mut d = Director::new();
    let mut parts = datagram(45);
    parts.reverse();
    let sent: usize = parts.into_iter().map(|part| d.receive(WAN, &[part]).sent.len()).sum();
    assert_eq!(sent, 45);
}

#[test]
fn a_packet_without_hops_left_to_a_server_behind_linux_is_dropped() {
    let mut d = Director::new();
    let route = |address: &str, len, route| (Prefix { address: ip(address), len }, route);
    let routes = Routes::new([route("192.0.2.10", 32, Route::Local), route("10.0.0.0", 24, Route::Linux)]);
    d.path.adopt(Tables { routes: routes.into(), ..tables(2, &[11, 12], 1) }.into());
    let mut frame = from_client(4000, "S");
    frame[22] = 0;
    crate::wire::ipv4::fill_checksum(&mut frame[14..34]);
    assert!(d.receive(WAN, &[frame]).sent.is_empty());
    assert_eq!(d.dropped(DropReason::Unsupported), 1);
}

#[test]
fn what_is_redirected_to_the_host_may_have_255_hops_left() {
    let mut d = Director::new();
    let rules = hooks::rules(&["nat PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2222"]);
    d.path.adopt(Tables { rules: Arc::new(rules), ..tables(2, &[11, 12], 1) }.into());
    for _ in 0..2 {
        let mut frame = tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 22), "S");
        frame[22] = 255;
        crate::wire::ipv4::fill_checksum(&mut frame[14..34]);
        let arrived = d.receive(WAN, &[frame]).to_twin.remove(0);
        let (.., port, hops) = read(&arrived);
        assert_eq!((port, hops), (2222, 255));
    }
}

#[test]
fn a_syn_for_a_finished_connection_of_a_removed_server_is_scheduled_anew() {
    let mut d = Director::new();
    d.receive(WAN, &[from_client(4000, "S")]);
    d.receive(WAN, &[from_client(4000, "F")]);
    let mut t = tables(2, &[11, 12], 1);
    let other = Server::new(ServerId(40), (ip("10.0.0.12"), 8080), 1, Forward::Masq);
    let key = ServiceKey::new(Protocol::TCP, ip("192.0.2.10"), 80);
    t.services = Arc::new(Services::new([Arc::new(Service::new(
        None,
        ServiceId(1),
        key,
        SchedulerKind::Rr,
        vec![other],
        2,
    ))]));
    d.path.adopt(t.into());
    let out = d.receive(WAN, &[from_client(4000, "S")]);
    assert_eq!(out.sent.len(), 1);
}

#[test]
fn a_packet_that_claims_to_come_from_ourselves_is_dropped() {
    let mut d = Director::new();
    let out = d.receive(WAN, &[tcp((CLIENT, OUR_WAN), ("192.0.2.10", 80), ("192.0.2.10", 80), "S")]);
    assert!(out.sent.is_empty());
    assert_eq!(d.dropped(DropReason::MartianAddress), 1);
}

#[test]
fn packets_that_may_not_be_answered_leave_the_others_their_answers() {
    let mut d = Director::new();
    let to_nowhere = |from| tcp(C2D, (from, 4000), ("198.51.100.1", 22), "S");
    let mut error = Vec::new();
    etherparse::PacketBuilder::ethernet2(C2D.0, C2D.1)
        .ipv4([192, 0, 2, 100], [198, 51, 100, 1], 64)
        .icmpv4_raw(3, 1, [0; 4])
        .write(&mut error, &[0; 28])
        .unwrap();
    for _ in 0..200 {
        assert!(d.receive(WAN, std::slice::from_ref(&error)).sent.is_empty());
    }
    assert_eq!(d.receive(WAN, &[to_nowhere("192.0.2.100")]).sent.len(), 1);
    assert_eq!(d.dropped(DropReason::NoRoute), 201);
}

#[test]
fn a_fragment_handed_over_from_a_vlan_that_is_gone_by_then_is_dropped() {
    let mut d = Director::new();
    let frame = tagged(&datagram(3)[1], 7);
    let steer = Steer::Fragment(Ports { sport: 5353, dport: 80, protocol: Protocol::UDP });
    let mut handed: ArrayVec<_, BURST> = [(Frame::new(WAN, &frame), steer)].into_iter().collect();
    let mut out = Out::default();
    d.path.receive_handed_over(&mut handed, d.now, &mut out);
    assert_eq!((out.sent.len(), out.to_twin.len()), (0, 0));
    assert_eq!(d.dropped(DropReason::UnknownVlan), 1);
}

#[test]
fn a_later_fragment_may_have_no_more_extension_headers_than_its_first() {
    let mut d = Director::new();
    let eight = [60, 60, 60, 60, 60, 60, 60, 44];
    let nine = [60, 60, 60, 60, 60, 60, 60, 60, 44];
    for (kinds, sent) in [(&eight[..], 1), (&nine[..], 0)] {
        let mut frame = tcp(C2D, ("2001:db8::100", 4000), ("fd00::11", 22), "S");
        let mut headers = Vec::new();
        for (n, _) in kinds.iter().enumerate() {
            let is_fragment = n + 1 == kinds.len();
            headers.extend([
                kinds.get(n + 1).copied().unwrap_or(6),
                0,
                0,
                if is_fragment { 8 } else { 0 },
                0,
                0,
                0,
                0,
            ]);
        }
        let payload_len = (frame.len() - 54 + headers.len()) as u16;
        frame[18..20].copy_from_slice(&payload_len.to_be_bytes());
        frame[20] = kinds[0];
        frame.splice(54..54, headers);
        assert_eq!(d.receive(WAN, &[frame]).sent.len(), sent, "{} headers", kinds.len());
    }
    assert_eq!(d.dropped(DropReason::BadIpv6Extension), 1);
}

#[test]
fn a_packet_that_a_worker_without_tables_handed_over_is_bound_by_its_owner_alone() {
    let mut handed_on = 0;
    for with in [0u16, 1] {
        let counters = counters(2);
        let uses = Arc::new(Uses::new(2, 100));
        let mut owner = path(with, &counters, &uses);
        owner.adopt(tables(1, &[11, 12], 1).into());
        let mut other = path(1 - with, &counters, &uses);
        for sport in 4000..4032 {
            let syn = Frame::new(WAN, &from_client(sport, "S"));
            let mut out = Out::default();
            other.receive(&mut Burst::from_iter([syn.clone()]), Tick(100), &mut out);
            let mut handed: ArrayVec<_, BURST> =
                out.handed.into_iter().map(|(_, frame, steer)| (frame, steer)).collect();
            let was_handed = handed.len();
            let mut out = Out::default();
            owner.receive_handed_over(&mut handed, Tick(100), &mut out);
            assert_eq!(out.sent.len() + out.handed.len(), was_handed);
            handed_on += out.handed.len();
            let mut direct = Out::default();
            owner.receive(&mut Burst::from_iter([syn]), Tick(100), &mut direct);
            if was_handed > 0 {
                assert_eq!(out.sent.len(), direct.sent.len(), "as if it had come to the owner");
            }
        }
    }
    assert!(handed_on > 0, "some belong to the worker without tables");
}

#[test]
fn new_connections_go_by_the_next_hop_that_their_server_has_now() {
    let mut d = Director::new();
    let to = |d: &mut Director, sport| {
        let out = d.receive(WAN, &[from_client(sport, "S")]);
        out.sent[0].1.data()[..6].to_vec()
    };
    let one = |generation, n: u8| {
        let tables = tables(generation, &[11], 1);
        let all = [(InterfaceId(1), ip("10.0.0.11"), n), (InterfaceId(1), ip("10.0.0.12"), n)];
        let neighbours = all.map(|(interface, address, n)| (interface, address, Some(server_mac(n))));
        Tables { neighbours: Neighbours::new(&tables.interfaces, neighbours).into(), ..tables }
    };
    d.path.adopt(Arc::new(one(2, 31)));
    assert_eq!([4000, 4001, 4002].map(|sport| to(&mut d, sport)), [31; 3].map(|n| server_mac(n).to_vec()));
    d.path.adopt(Arc::new(one(3, 32)));
    assert_eq!([4003, 4004].map(|sport| to(&mut d, sport)), [32; 2].map(|n| server_mac(n).to_vec()));
}
