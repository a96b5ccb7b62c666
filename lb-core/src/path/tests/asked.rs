//! Goal: matches and targets that ask of a packet what is not in it, or where it stands at a hook, are told so. Method: a rule that drops, packets, what leaves.

use super::hooks::{back, director, rules, through};
use super::tracking::list;
use super::*;

/// Which of these come through, one after the other: from the client, or (`true`) from the server.
fn come_through(director: &mut Director, packets: &[(bool, Vec<u8>)]) -> Vec<bool> {
    let sent = |(is_answer, frame): &(bool, Vec<u8>)| {
        !director.receive(if *is_answer { LAN } else { WAN }, std::slice::from_ref(frame)).sent.is_empty()
    };
    packets.iter().map(sent).collect()
}

#[test]
fn a_connections_packets_and_bytes_are_counted_while_a_rule_asks() {
    let story = |is_served: bool| {
        let answer = if is_served { from_server(11, 4000, "SA") } else { back(4000, "SA") };
        let to = |flags| if is_served { from_client(4000, flags) } else { through(4000, flags) };
        [(false, to("S")), (true, answer), (false, to("A")), (false, to("A")), (false, to("A"))]
    };
    for (asked, expected) in [
        ("3: packets both", [true, true, false, false, false]),
        ("3: packets original", [true, true, true, false, false]),
        ("1:1 packets reply", [true, false, false, false, false]),
        // Each is 47 bytes.
        ("48:141 bytes original", [true, true, false, false, true]),
        ("! 0:2 packets original", [true, true, true, false, false]),
        ("48: avgpkt both", [true; 5]),
        ("47: avgpkt reply", [true, false, false, false, false]),
    ] {
        let (range, [mode, way]) = match *asked.split(' ').collect::<Vec<_>>() {
            ["!", range, mode, way] => (format!("! --connbytes {range}"), [mode, way]),
            [range, mode, way] => (format!("--connbytes {range}"), [mode, way]),
            _ => unreachable!("{asked}"),
        };
        for is_served in [false, true] {
            let rule = format!(
                "mangle POSTROUTING -m connbytes {range} --connbytes-mode {mode} --connbytes-dir {way} -j DROP"
            );
            let mut director = director(rules(&[&rule]));
            // Which server it was is nobody's business here.
            if is_served {
                director
                    .path
                    .adopt(Arc::new(Tables { rules: Arc::new(rules(&[&rule])), ..tables(2, &[11], 1) }));
            }
            assert_eq!(come_through(&mut director, &story(is_served)), expected, "{asked} {is_served}");
        }
    }
}

#[test]
fn what_nobody_asks_is_not_counted() {
    let mut director = director(rules(&["mangle POSTROUTING -m mark --mark 1"]));
    come_through(&mut director, &[(false, through(4000, "S")), (false, through(4000, "A"))]);
    assert_eq!(list(&director)[0].known.accounting, None);
}

#[test]
fn a_packet_is_handled_by_its_workers_cpu() {
    for (rule, comes) in [("--cpu 3", false), ("! --cpu 3", true), ("--cpu 0", true)] {
        let mut director = director(rules(&[&format!("filter FORWARD -m cpu {rule} -j DROP")]));
        director.counters[0].turns.cpu.set(3);
        assert_eq!(come_through(&mut director, &[(false, through(4000, "S"))]), [comes], "{rule}");
    }
}

#[test]
fn a_connection_is_one_nodes_of_a_cluster_in_both_directions() {
    for (node, is_ours) in [("--cluster-local-node 1", false), ("--cluster-local-node 2", true)] {
        let rule = format!(
            "mangle PREROUTING -m cluster --cluster-total-nodes 2 {node} --cluster-hash-seed 1 -j MARK --set-mark 1"
        );
        let mut director = director(rules(&[&rule, "filter FORWARD -m mark ! --mark 1 -j DROP"]));
        let story = [(false, through(4000, "S")), (true, back(4000, "SA")), (false, through(4000, "A"))];
        assert_eq!(come_through(&mut director, &story), [is_ours; 3], "{node}");
    }
}

#[test]
fn a_mark_made_of_ends_is_the_same_in_both_directions() {
    for (rule, mark) in [
        ("--hmark-tuple src,dst,sport,dport,proto", "0x214"),
        ("--hmark-tuple ct,src,dst,sport,dport,proto", "0x214"),
    ] {
        let rule =
            format!("mangle PREROUTING -j HMARK {rule} --hmark-mod 1000 --hmark-offset 1 --hmark-rnd 1");
        let mut director = director(rules(&[
            &rule,
            "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22",
            &format!("filter FORWARD -m mark ! --mark {mark} -j DROP"),
        ]));
        let story = [(false, through(4000, "S")), (true, back(4000, "SA")), (false, through(4000, "A"))];
        assert_eq!(come_through(&mut director, &story), [true; 3], "{rule}");
    }
}

#[test]
fn bytes_are_read_as_they_are_at_a_hook() {
    // The destination that a packet has been given, its port, and a hop less.
    let of_program = "-m bpf --bytecode \"8,32 0 0 16,21 0 5 167772171,40 0 0 22,21 0 3 22,48 0 0 8,21 0 1 63,6 0 0 1,6 0 0 0\"";
    let of_words = "-m u32 --u32 \"0x10=0x0a00000b&&0x14&0xffff=0x16&&0x5&0xff=0x3f\"";
    for matches in [of_program, of_words] {
        let mut director = director(rules(&[
            "nat PREROUTING -p tcp --dport 2222 -j DNAT --to-destination 10.0.0.11:22",
            &format!("mangle PREROUTING {matches} -j DROP"),
            &format!("mangle FORWARD {matches} -j MARK --set-mark 1"),
            "mangle POSTROUTING -d 10.0.0.0/24 -m mark ! --mark 1 -j DROP",
        ]));
        let frame = |flags| tcp(C2D, ("192.0.2.100", 4000), ("192.0.2.1", 2222), flags);
        let story = [(false, frame("S")), (true, back(4000, "SA")), (false, frame("A"))];
        assert_eq!(come_through(&mut director, &story), [true; 3], "{matches}");
        assert_eq!(
            come_through(&mut director, &[(false, through(4001, "S"))]),
            [true],
            "untranslated: {matches}"
        );
        let other = tcp(C2D, ("192.0.2.100", 4002), ("10.0.0.12", 22), "S");
        assert_eq!(come_through(&mut director, &[(false, other)]), [false], "{matches}");
    }
}

#[test]
fn a_program_asks_what_the_kernel_knows_of_a_packet() {
    let offset = |place: i32| place as u32;
    let takes = |ask: &str, value: u32| {
        let rule =
            format!("filter FORWARD -m bpf --bytecode \"4,{ask},21 0 1 {value},6 0 0 1,6 0 0 0\" -j DROP");
        let mut director = director(rules(&["mangle PREROUTING -j MARK --set-mark 7", &rule]));
        director.counters[0].turns.cpu.set(3);
        come_through(&mut director, &[(false, through(4000, "S"))]) == [false]
    };
    let extra = |place: i32| format!("32 0 0 {}", offset(-0x1000 + place));
    assert!(takes(&extra(0), 0x800) && takes(&extra(4), 0) && takes(&extra(20), 7) && takes(&extra(36), 3));
    assert!(takes("128 0 0 0", 47), "its length");
    // The EtherType, the first byte of the sender's address, and IP's first byte.
    assert!(takes(&format!("40 0 0 {}", offset(-0x20_0000 + 12)), 0x800));
    assert!(takes(&format!("48 0 0 {}", offset(-0x20_0000 + 6)), C2D.0[0].into()));
    assert!(takes(&format!("48 0 0 {}", offset(-0x10_0000)), 0x45));
    assert!(takes(&format!("48 0 0 {}", offset(-0x20_0000 + 14)), 0x45));
    assert!(!takes("48 0 0 47", 0), "beyond the packet");
}
