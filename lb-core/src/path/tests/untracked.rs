//! Packets that conntrack makes nothing of, where there are rules: virtual services take them all the same, as the kernel's IPVS does, which asks
//! conntrack nothing.

use super::hooks::{director, rules};
use super::*;

const UNTRACKED_ALONE: [&str; 3] = [
    "filter INPUT -m conntrack ! --ctstate UNTRACKED -j DROP",
    "filter OUTPUT -m conntrack ! --ctstate UNTRACKED -j DROP",
    "filter FORWARD -m conntrack ! --ctstate ESTABLISHED -j DROP",
];

#[test]
fn a_virtual_service_takes_what_rules_leave_untracked() {
    for (vip, client, target) in [
        ("192.0.2.10", "192.0.2.100", "raw PREROUTING -d 192.0.2.10 -j NOTRACK"),
        ("2001:db8::10", "2001:db8::100", "raw PREROUTING -d 2001:db8::10 -j CT --notrack"),
    ] {
        let mut director = director(rules(&[&[target][..], &UNTRACKED_ALONE].concat()));
        let mut sent = Vec::new();
        for flags in ["S", "A", "A"] {
            let out = director.receive(WAN, &[tcp(C2D, (client, 4000), (vip, 80), flags)]);
            assert_eq!((out.sent.len(), out.to_twin.len()), (1, 0), "{vip} {flags}");
            sent.push(read(&out.sent[0].1));
        }
        let (_, _, server, port, _) = sent[0];
        assert!(sent.iter().all(|to| (to.2, to.3) == (server, port)), "{sent:?}");
        let n = if server.to_string().ends_with("11") { 11 } else { 12 };
        let answer = tcp((server_mac(n), OUR_LAN), (&server.to_string(), port), (client, 4000), "SA");
        let back = read(&director.receive(LAN, &[answer]).sent[0].1);
        assert_eq!((back.0, back.1, back.2, back.3), (ip(vip), 80, ip(client), 4000));
        assert_eq!(director.states(), ["ESTABLISHED"]);
        director.path.check_connections().unwrap();
    }
}

#[test]
fn packets_of_a_connection_that_began_before_the_rule_are_untracked_and_go_where_it_goes() {
    let mut director = director(rules(&["filter INPUT -p tcp --dport 1 -j DROP"]));
    let first = read(&director.receive(WAN, &[from_client(4000, "S")]).sent[0].1);
    let lines = [&["raw PREROUTING -j NOTRACK"][..], &UNTRACKED_ALONE[..2]].concat();
    director.path.adopt(Arc::new(Tables { rules: Arc::new(rules(&lines)), ..tables(3, &[11, 12], 1) }));
    for _ in 0..2 {
        assert_eq!(read(&director.receive(WAN, &[from_client(4000, "A")]).sent[0].1), first);
    }
    assert_eq!(director.dropped(DropReason::Rule), 0);
}

#[test]
fn any_syn_is_scheduled_also_where_it_is_invalid() {
    let mut director = director(rules(&["filter INPUT -m conntrack ! --ctstate INVALID -j DROP"]));
    let out = director.receive(WAN, &[from_client(4000, "SA")]);
    assert_eq!((out.sent.len(), director.states().len()), (1, 1));
    // Not so what begins nothing: the host answers it.
    let mut tables = tables(3, &[11, 12], 1);
    tables.rules = Arc::new(rules(&["raw PREROUTING -j NOTRACK"]));
    director.path.adopt(tables.into());
    let out = director.receive(WAN, &[from_client(4001, "A"), from_client(4002, "SR")]);
    assert_eq!((out.sent.len(), out.to_twin.len(), director.states().len()), (0, 2, 1));
}

#[test]
fn a_rule_at_input_stops_what_is_untracked_before_it_is_scheduled() {
    let mut director = director(rules(&["raw PREROUTING -j NOTRACK", "filter INPUT -p tcp -j DROP"]));
    assert!(director.receive(WAN, &[from_client(4000, "S")]).sent.is_empty());
    assert_eq!((director.dropped(DropReason::Rule), director.states().len()), (1, 0));
}

#[test]
fn nobody_begins_a_connection_from_an_address_of_the_director() {
    for lines in [&["raw PREROUTING -j NOTRACK"][..], &["filter INPUT -p tcp --dport 1 -j DROP"]] {
        let mut director = director(rules(lines));
        let land = tcp(C2D, ("192.0.2.10", 4000), ("192.0.2.10", 80), "S");
        assert!(director.receive(WAN, &[land]).sent.is_empty());
        assert_eq!(director.dropped(DropReason::MartianAddress), 1, "{lines:?}");
    }
}
