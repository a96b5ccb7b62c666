//! A packet's road on the terminal: a hook a paragraph, what was met there a line.

use std::io::{self, Write};

use crate::api::explain::{ConnectionView, Dropped, MetRule, PacketView, Road, RoadEnd, RoadStep, TableStep};

/// Width of the names of tables and functions.
const NAME: usize = 9;

pub(super) fn print(out: &mut dyn Write, road: &Road) -> io::Result<()> {
    let what = road.packet.as_ref().map_or_else(|| "no IP packet that can be read".to_owned(), packet);
    let from = if road.from_host { "sent by the host by" } else { "received on" };
    writeln!(out, "{what}, {from} {}", road.interface)?;
    let mut hook = "";
    for step in &road.steps {
        let at = match step {
            RoadStep::Function { hook, .. } | RoadStep::Table(TableStep { hook, .. }) => hook,
            _ => hook,
        };
        if at != hook {
            writeln!(out, "{at}")?;
            hook = at;
        }
        match step {
            RoadStep::Known(known) => writeln!(out, "  {}", connection(known))?,
            RoadStep::Function { function, .. } => writeln!(out, "  {function}")?,
            RoadStep::Table(table) => print_table(out, table)?,
            RoadStep::Becomes { source, destination } => {
                line(out, "", &format!("becomes {source} > {destination}"))?
            }
            RoadStep::Routed { way } => {
                // What follows is at another hook.
                hook = "";
                writeln!(out, "routed: {way}")?;
            }
            RoadStep::ByMark { mark } => {
                hook = "";
                writeln!(out, "to this host, by a route of its mark {mark:#x}")?;
            }
            RoadStep::Service { service, scheduler } => {
                line(out, "", &format!("virtual service {service}, scheduler {scheduler}"))?;
            }
            RoadStep::Quic { scheduled: None } => {
                line(out, "", "the QUIC connection ID names the real server")?;
            }
            RoadStep::Quic { scheduled: Some(why) } => {
                line(out, "", &format!("the QUIC connection ID names no real server ({why})"))?;
            }
            RoadStep::Cookie { made: true } => line(out, "", "the client is answered with a SYN cookie")?,
            RoadStep::Cookie { made: false } => {
                line(out, "", "the client acknowledges a SYN cookie: the real server is asked")?;
            }
            RoadStep::Server { server: Some(server), forward } => {
                let how = forward.as_deref().unwrap_or("its method is gone");
                line(out, "", &format!("real server {server} ({how})"))?;
            }
            RoadStep::Server { server: None, .. } => line(out, "", "no real server takes it")?,
            RoadStep::Bypass => line(out, "", "it goes straight on to its own destination (cache_bypass)")?,
        }
    }
    if road.left_out > 0 {
        writeln!(out, "… {} steps more", road.left_out)?;
    }
    print_end(out, road)
}

fn print_table(out: &mut dyn Write, table: &TableStep) -> io::Result<()> {
    let mut seen = format!("{}, {} > {}", table.state, table.source, table.destination);
    if table.mark != 0 {
        seen += &format!(", mark {:#x}", table.mark);
    }
    line(out, &table.table, &seen)?;
    for MetRule { chain, number, rule, missed } in &table.met {
        let not = if *missed { "not " } else { "" };
        let text = match number {
            Some(number) => format!("{not}{chain} {number}: {rule}"),
            None => format!("{chain} end: {rule}"),
        };
        line(out, "", &text)?;
    }
    if table.verdict == "accept" { Ok(()) } else { line(out, "", &format!("→ {}", table.verdict)) }
}

fn line(out: &mut dyn Write, name: &str, text: &str) -> io::Result<()> {
    writeln!(out, "  {name:<NAME$}  {text}")
}

fn print_end(out: &mut dyn Write, road: &Road) -> io::Result<()> {
    if let Some(Dropped { reason, hook }) = &road.dropped {
        writeln!(out, "dropped at {}: {reason}", hook.to_ascii_uppercase())?;
    }
    for end in &road.ends {
        match end {
            RoadEnd::Sent { interface, mac, packet: sent } => {
                let word = if road.dropped.is_some() { "its sender is told" } else { "sent" };
                let what = sent.as_ref().map_or_else(|| "a frame".to_owned(), packet);
                writeln!(out, "{word} by {interface} to {mac}: {what}")?;
            }
            RoadEnd::Twin { interface } => writeln!(out, "to the host, by the twin {interface}")?,
            RoadEnd::Worker { worker } => writeln!(out, "handed over to worker {worker}")?,
            RoadEnd::Unresolved { interface, neighbour } => {
                writeln!(out, "waits until {neighbour} on {interface} is resolved")?;
            }
        }
    }
    if road.ends.is_empty() && road.dropped.is_none() {
        writeln!(out, "waits: for its next hop, or for the first fragment of its datagram")?;
    }
    Ok(())
}

fn packet(packet: &PacketView) -> String {
    let PacketView { protocol, source, destination, .. } = packet;
    let end = |address: &std::net::IpAddr, port| match port {
        Some(port) => std::net::SocketAddr::new(*address, port).to_string(),
        None => address.to_string(),
    };
    let from = end(source, packet.ports.map(|(from, _)| from));
    let to = end(destination, packet.ports.map(|(_, to)| to));
    let mut text = format!("{protocol} {from} > {to}");
    if !packet.flags.is_empty() {
        text += &format!(" {}", packet.flags.join(","));
    }
    if let Some((kind, code)) = packet.icmp {
        text += &format!(" type {kind} code {code}");
    }
    if packet.later_fragment {
        text += " later fragment";
    }
    text + &format!(", TTL {}, {} bytes", packet.ttl, packet.length)
}

fn connection(known: &ConnectionView) -> String {
    let ConnectionView { reply, state, source, destination, server, service } = known;
    let whose = if *service { "a virtual service's connection" } else { "a connection" };
    let direction = if *reply { "an answer of" } else { "of" };
    format!("{direction} {whose}: {source} > {destination}, {state}, with {server}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lb_core::ids::PortId;
    use lb_core::tables::{Interface, InterfaceId, Interfaces, Neighbours, Prefix, Route, Routes};

    use super::*;
    use crate::api::explain::{Probe, State};
    use crate::api::types::{ErrorBody, ErrorKind};
    use crate::compile::Network;
    use crate::daemon::{Control, fake};

    const SERVICE: &str = r#"
[[port]]
name = "lan"
device = "net_null1"
[[virtual_service]]
address = "192.0.2.10:80"
scheduler = "rr"
real_servers = [{ address = "10.0.0.11:8080" }]
"#;

    fn network() -> Network {
        let interface = |name: &str, port, ipv4: &str| Interface {
            name: name.into(),
            port: PortId(port),
            vlan: 0,
            mac: [2, 0, 0, 0, 0, port as u8],
            mtu: 1500,
            outside: port == 0,
            group: 0,
            ipv4: Some(ipv4.parse().expect("an address")),
            ipv6: None,
        };
        let interfaces =
            Interfaces::new(vec![interface("wan", 0, "192.0.2.1"), interface("lan", 1, "10.0.0.1")]);
        let address = |text: &str| text.parse().expect("an address");
        let via = |n| Route::Via { interface: InterfaceId(n), gateway: None };
        let routes = [
            ("192.0.2.0", 24, via(0)),
            ("192.0.2.10", 32, Route::Local),
            ("192.0.2.1", 32, Route::Local),
            ("10.0.0.1", 32, Route::Local),
            ("10.0.0.0", 24, via(1)),
        ]
        .map(|(network, len, route)| (Prefix { address: address(network), len }, route));
        let neighbours = [(InterfaceId(1), address("10.0.0.11"), Some([2, 0, 0, 0, 2, 11]))];
        let neighbours = Arc::new(Neighbours::new(&interfaces, neighbours));
        Network { interfaces: interfaces.into(), routes: Arc::new(Routes::new(routes)), neighbours }
    }

    fn control() -> Control {
        let (mut control, ..) = fake::start(SERVICE);
        control.use_network(&network());
        let change = r#"{"family": "ipv4", "tables": [
            {"table": "filter", "commands": [
                {"do": "new_chain", "chain": "web"},
                {"do": "append", "chain": "web", "rule": ["-s", "192.0.2.66", "-j", "DROP"]},
                {"do": "append", "chain": "INPUT", "rule": ["-p", "tcp", "--dport", "80", "-j", "web"]},
                {"do": "append", "chain": "FORWARD", "rule": ["-p", "icmp", "-j", "ACCEPT"]},
                {"do": "append", "chain": "FORWARD", "rule": ["-j", "REJECT"]}]},
            {"table": "mangle", "commands": [
                {"do": "append", "chain": "PREROUTING", "rule": ["-j", "MARK", "--set-mark", "7"]}]},
            {"table": "nat", "commands": [
                {"do": "append", "chain": "PREROUTING", "rule": ["-p", "tcp", "--dport", "2222", "-j", "DNAT", "--to-destination", "10.0.0.11:22"]}]}]}"#;
        control.change_rules(&serde_json::from_str(change).expect("a batch")).expect("right");
        control
    }

    fn probe(source: &str, destination: &str, port: u16) -> Probe {
        Probe {
            interface: "wan".to_owned(),
            from_host: false,
            protocol: "tcp".to_owned(),
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            source_port: 4000,
            destination_port: port,
            flags: Vec::new(),
            icmp: None,
            ttl: None,
            data: 0,
            state: None,
            all: false,
        }
    }

    fn explained(probe: &Probe) -> Result<String, ErrorBody> {
        explained_by(&control(), probe)
    }

    fn explained_by(control: &Control, probe: &Probe) -> Result<String, ErrorBody> {
        let road = control.explain(probe)?.0.road;
        // Over the API and back.
        let road: Road = serde_json::from_str(&serde_json::to_string(&road).expect("JSON")).expect("JSON");
        let mut text = Vec::new();
        print(&mut text, &road).expect("memory");
        Ok(String::from_utf8(text).expect("text"))
    }

    #[test]
    fn a_road_to_a_virtual_service_reads_from_top_to_bottom() {
        let text = explained(&probe("192.0.2.100", "192.0.2.10", 80)).expect("a packet");
        assert_eq!(
            text,
            "\
tcp 192.0.2.100:4000 > 192.0.2.10:80 SYN, TTL 64, 40 bytes, received on wan
PREROUTING
  raw        NEW, 192.0.2.100:4000 > 192.0.2.10:80
  conntrack
  mangle     NEW, 192.0.2.100:4000 > 192.0.2.10:80
             PREROUTING 1: -j MARK --set-xmark 0x7/0xffffffff
             PREROUTING end: ACCEPT
  nat        NEW, 192.0.2.100:4000 > 192.0.2.10:80, mark 0x7
             PREROUTING end: ACCEPT
routed: to this host
INPUT
  mangle     NEW, 192.0.2.100:4000 > 192.0.2.10:80, mark 0x7
             INPUT end: ACCEPT
  filter     NEW, 192.0.2.100:4000 > 192.0.2.10:80, mark 0x7
             INPUT 1: -p tcp -m tcp --dport 80 -j web
             web end: RETURN
             INPUT end: ACCEPT
  security   NEW, 192.0.2.100:4000 > 192.0.2.10:80, mark 0x7
  ipvs remote_request
             virtual service tcp/192.0.2.10:80, scheduler rr
             real server 10.0.0.11:8080 (masq)
OUTPUT
  raw        NEW, 192.0.2.100:4000 > 10.0.0.11:8080, mark 0x7
  mangle     NEW, 192.0.2.100:4000 > 10.0.0.11:8080, mark 0x7
             OUTPUT end: ACCEPT
  filter     NEW, 192.0.2.100:4000 > 10.0.0.11:8080, mark 0x7
             OUTPUT end: ACCEPT
  security   NEW, 192.0.2.100:4000 > 10.0.0.11:8080, mark 0x7
POSTROUTING
  mangle     NEW, 192.0.2.100:4000 > 10.0.0.11:8080, mark 0x7
             POSTROUTING end: ACCEPT
sent by lan to 02:00:00:00:02:0b: tcp 192.0.2.100:4000 > 10.0.0.11:8080 SYN, TTL 63, 40 bytes
"
        );
    }

    #[test]
    fn a_road_says_why_a_packet_was_dropped_and_what_its_sender_is_told() {
        let text = explained(&probe("192.0.2.66", "192.0.2.10", 80)).expect("a packet");
        let end =
            "             web 1: -s 192.0.2.66/32 -j DROP\n             → drop\ndropped at INPUT: rule\n";
        assert!(text.ends_with(end), "{text}");
        let text = explained(&probe("192.0.2.100", "10.0.0.11", 443)).expect("a packet");
        let refused = "             FORWARD 2: -j REJECT --reject-with icmp-port-unreachable\n             → reject, with ICMP type 3 code 3\n\
                       OUTPUT\n  raw        RELATED, 192.0.2.1 > 192.0.2.100\n";
        assert!(text.contains(refused), "{text}");
        let told = "             POSTROUTING end: ACCEPT\n\
                    dropped at FORWARD: rule_rejects\nits sender is told by wan to 02:00:00:00:00:00: icmp 192.0.2.1 > 192.0.2.100 type 3 code 3,";
        assert!(text.contains(told), "{text}");
    }

    #[test]
    fn a_translation_an_echo_and_a_packet_of_the_host_are_told() {
        let text = explained(&probe("192.0.2.100", "192.0.2.1", 2222)).expect("a packet");
        let becomes = "             → translate\n             becomes 192.0.2.100:4000 > 10.0.0.11:22\nrouted: by lan\nFORWARD\n";
        assert!(text.contains(becomes), "{text}");
        let echo = Probe { protocol: "icmp".to_owned(), ..probe("192.0.2.100", "10.0.0.11", 0) };
        let text = explained(&echo).expect("a packet");
        assert!(text.contains("FORWARD 1: -p icmp -j ACCEPT"), "{text}");
        assert!(text.ends_with("icmp 192.0.2.100 > 10.0.0.11 type 8 code 0, TTL 63, 28 bytes\n"), "{text}");
        let sent =
            Probe { from_host: true, interface: "lan".to_owned(), ..probe("10.0.0.1", "10.0.0.11", 25) };
        let text = explained(&sent).expect("a packet");
        assert!(text.contains("sent by the host by lan\nOUTPUT\n  raw"), "{text}");
        assert!(
            text.ends_with(
                "sent by lan to 02:00:00:00:00:00: tcp 10.0.0.1:4000 > 10.0.0.11:25 SYN, TTL 64, 40 bytes\n"
            ),
            "{text}"
        );
        let unresolved =
            explained(&Probe { protocol: "icmp".to_owned(), ..probe("192.0.2.100", "10.0.0.12", 0) });
        assert!(unresolved.expect("a packet").ends_with("waits until 10.0.0.12 on lan is resolved\n"));
    }

    #[test]
    fn rules_that_did_not_match_are_shown_in_their_places() {
        let (mut control, ..) = fake::start(SERVICE);
        control.use_network(&network());
        let rule = |chain: &str, rule: &str| {
            format!(
                r#"{{"do": "append", "chain": "{chain}", "rule": ["{}"]}}"#,
                rule.split(' ').collect::<Vec<_>>().join("\", \"")
            )
        };
        let rules = [
            rule("b", "-p udp -j DROP"),
            rule("a", "-p udp -j ACCEPT"),
            rule("a", "-p tcp -j RETURN"),
            rule("a", "-j DROP"),
            rule("FORWARD", "-s 192.0.2.1 -j DROP"),
            rule("FORWARD", "-j a"),
            rule("FORWARD", "-p icmp -j DROP"),
            rule("FORWARD", "-g b"),
            rule("FORWARD", "-j DROP"),
        ];
        let batch = format!(
            r#"{{"family": "ipv4", "tables": [{{"table": "filter", "commands": [
                {{"do": "new_chain", "chain": "a"}}, {{"do": "new_chain", "chain": "b"}}, {}]}}]}}"#,
            rules.join(", ")
        );
        control.change_rules(&serde_json::from_str(&batch).expect("a batch")).expect("right");
        let asked = Probe { all: true, ..probe("192.0.2.100", "10.0.0.11", 443) };
        let text = explained_by(&control, &asked).expect("a packet");
        let filter = "
             not FORWARD 1: -s 192.0.2.1/32 -j DROP
             FORWARD 2: -j a
             not a 1: -p udp -j ACCEPT
             a 2: -p tcp -j RETURN
             not FORWARD 3: -p icmp -j DROP
             FORWARD 4: -g b
             not b 1: -p udp -j DROP
             FORWARD end: ACCEPT
";
        assert!(text.contains(filter), "{text}");
        let established = Probe { state: Some(State::Established), all: false, ..asked };
        let text = explained_by(&control, &established).expect("a packet");
        assert!(text.contains("mangle     ESTABLISHED, 192.0.2.100:4000 > 10.0.0.11:443"), "{text}");
        assert!(
            text.starts_with("tcp 192.0.2.100:4000 > 10.0.0.11:443 ACK,") && !text.contains("not "),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_packet_is_refused_with_what_can_be() {
        let right = probe("192.0.2.100", "192.0.2.10", 80);
        for (wrong, message) in [
            (
                Probe { interface: "wlan".to_owned(), ..right.clone() },
                "interface \"wlan\": there are wan, lan",
            ),
            (
                Probe { destination: std::net::Ipv6Addr::LOCALHOST.into(), ..right.clone() },
                "192.0.2.100 and ::1 are of two families",
            ),
            (
                Probe { protocol: "icmpv6".to_owned(), ..right.clone() },
                "protocol \"icmpv6\": expected tcp, udp, sctp, icmp, icmpv6, or 1 to 255",
            ),
            (Probe { data: 60_000, ..right.clone() }, "60000 bytes of data: expected 0..=8900"),
            (
                Probe { flags: vec!["SNY".to_owned()], ..right },
                "TCP flag \"SNY\": expected FIN, SYN, RST, PSH, ACK, URG, ECE, CWR",
            ),
        ] {
            let error = explained(&wrong).expect_err("refused");
            assert_eq!((error.error, error.message.as_str()), (ErrorKind::BadRequest, message));
        }
    }
}
