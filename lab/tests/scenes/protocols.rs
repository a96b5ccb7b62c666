//! Goal: SCTP associations are balanced like TCP connections, and AH and ESP go with the exchange that negotiated them.
//! Method: clients and real servers on raw sockets (`lab::sctp`, `lab::raw`), which check checksums, tags and addresses themselves.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::raw::{Echo, Raw};
use lab::sctp::{Association, Server};
use lab::server::UdpEcho;
use lab::topology::{self, CLIENT, CLIENT_V6, VIP, VIP_V6};
use lab::{Director, Lab, LbdPlan, PATIENCE, until};

const PORT: u16 = 2905;
const SERVER_PORT: u16 = 9905;
const ISAKMP: u16 = 500;
const SERVERS: u8 = 3;

/// Virtual service, client, and the address of each real server.
fn families() -> [(IpAddr, IpAddr, Vec<IpAddr>); 2] {
    let v4 = (0..SERVERS).map(|index| topology::server(index).into()).collect();
    let v6 = (0..SERVERS).map(|index| topology::server_v6(index).into()).collect();
    [(VIP.into(), CLIENT.into(), v4), (VIP_V6.into(), CLIENT_V6.into(), v6)]
}

fn services(protocol: &str, port: u16, server_port: u16) -> String {
    families()
        .iter()
        .map(|(vip, _, servers)| {
            let servers: Vec<_> = servers.iter().map(|&at| (SocketAddr::new(at, server_port), 1)).collect();
            LbdPlan::service(SocketAddr::new(*vip, port), protocol, "rr", &servers)
        })
        .collect()
}

fn start_servers(lab: &Lab) -> Result<Vec<Server>> {
    let mut all = Vec::new();
    for (_, _, servers) in families() {
        for (namespace, address) in lab.servers().iter().zip(servers) {
            all.push(Server::start(namespace, SocketAddr::new(address, SERVER_PORT))?);
        }
    }
    Ok(all)
}

#[test]
fn associations_are_balanced_both_families_whole_and_in_fragments() -> Result<()> {
    let lab = Lab::new()?;
    let _servers = start_servers(&lab)?;
    let plan = LbdPlan { services: services("sctp", PORT, SERVER_PORT), ..LbdPlan::default() };
    let director = Director::start(&lab, &plan)?;
    let state_of = |port: u16| -> Option<String> {
        let listed = director.ipvsadm("-L -n -c").ok()?;
        let line =
            listed.lines().find(|line| line.starts_with("SCTP") && line.contains(&format!(":{port} ")))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    };
    for (number, (vip, client, _)) in (0..).zip(families()) {
        let mut who = Vec::new();
        let mut open = Vec::new();
        for n in 0..6 {
            let from = SocketAddr::new(client, 4000 + number * 10 + n);
            let mut association = Association::open(lab.client(), from, SocketAddr::new(vip, PORT))
                .with_context(|| format!("from {from} to {vip}"))?;
            let answer = association.ask(b"who serves?")?;
            who.push(answer.split_whitespace().next().unwrap_or_default().to_owned());
            // Several fragments there, several back: their ports stand in the first, the length of the whole in the last.
            let answer = association.ask(&[b'x'; 4000])?;
            ensure!(answer.split_whitespace().nth(1) == Some("4000"), "over {vip}: {answer}");
            ensure!(
                state_of(from.port()).as_deref() == Some("ESTABLISHED"),
                "{}",
                director.ipvsadm("-L -n -c")?
            );
            open.push(association);
        }
        who.sort();
        assert_eq!(who, ["s1", "s1", "s2", "s2", "s3", "s3"], "over {vip}");
        let counts = |columns: [&str; 2]| -> Option<()> {
            let listed = director.ipvsadm("-L -n").ok()?;
            let is_ours = |line: &&str| line.contains("->") && line.contains('[') == vip.is_ipv6();
            let servers: Vec<_> = listed.lines().filter(is_ours).skip(usize::from(!vip.is_ipv6())).collect();
            let ends_so =
                |line: &&str| line.split_whitespace().rev().take(2).eq(columns.iter().rev().copied());
            (servers.len() == usize::from(SERVERS) && servers.iter().all(ends_so)).then_some(())
        };
        until("two active associations each", PATIENCE, || counts(["2", "0"]))?;
        for association in open {
            association.close()?;
        }
        until("no active association", PATIENCE, || counts(["0", "2"]))?;
        ensure!(
            state_of(4000 + number * 10).as_deref() == Some("CLOSED"),
            "{}",
            director.ipvsadm("-L -n -c")?
        );
    }
    Ok(())
}

#[test]
fn an_association_outlives_the_director() -> Result<()> {
    let lab = Lab::new()?;
    let _servers = start_servers(&lab)?;
    let plan = LbdPlan { services: services("sctp", PORT, SERVER_PORT), ..LbdPlan::default() };
    let director = Director::start(&lab, &plan)?;
    let mut open = families()
        .into_iter()
        .map(|(vip, client, _)| {
            Association::open(lab.client(), SocketAddr::new(client, 4000), SocketAddr::new(vip, PORT))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut before = Vec::new();
    for association in &mut open {
        before.push(association.ask(b"who serves?")?);
    }
    director.kill()?;
    let director = Director::start(&lab, &plan)?;
    for (association, before) in open.iter_mut().zip(before) {
        assert_eq!(association.ask(b"who serves?")?, before);
    }
    let listed = director.ipvsadm("-L -n -c")?;
    assert_eq!(listed.lines().filter(|line| line.contains("ESTABLISHED")).count(), 2, "{listed}");
    Ok(())
}

#[test]
fn esp_goes_to_the_real_server_that_the_exchange_went_to() -> Result<()> {
    const ESP: u8 = 50;
    let lab = Lab::new()?;
    let mut echoes = Vec::new();
    let _isakmp =
        lab.servers().iter().map(|server| UdpEcho::start_on(server, ISAKMP)).collect::<Result<Vec<_>>>()?;
    for (_, _, servers) in families() {
        for (namespace, address) in lab.servers().iter().zip(servers) {
            echoes.push(Echo::start(namespace, ESP, address)?);
        }
    }
    let plan = LbdPlan { services: services("udp", ISAKMP, ISAKMP), ..LbdPlan::default() };
    let director = Director::start(&lab, &plan)?;
    for (vip, client, _) in families() {
        let esp = Raw::open(lab.client(), ESP, client)?;
        esp.send(vip, b"nobody knows this one yet")?;
        ensure!(esp.receive(Duration::from_millis(500))?.is_none(), "{vip}: it was not negotiated");

        let isakmp = lab.client().enter(|| UdpSocket::bind((client, ISAKMP)))??;
        isakmp.set_read_timeout(Some(PATIENCE))?;
        isakmp.send_to(b"?", (vip, ISAKMP))?;
        let mut answer = [0; 100];
        let (len, _) = isakmp.recv_from(&mut answer)?;
        let who = String::from_utf8_lossy(&answer[..len]).split_whitespace().next().map(str::to_owned);
        let who = who.context("an empty answer")?;
        for length in [20, 3000] {
            esp.send(vip, &vec![b'x'; length])?;
            let (from, answer) = esp.receive(PATIENCE)?.with_context(|| format!("{vip}: no answer"))?;
            assert_eq!((from, answer.len()), (vip, length + who.len() + 1));
            ensure!(answer.starts_with(format!("{who} x").as_bytes()), "{vip}: {who} negotiated");
        }
    }
    let listed = director.ipvsadm("-L -n -c")?;
    assert_eq!(listed.lines().filter(|line| line.starts_with("UDP")).count(), 2, "{listed}");
    Ok(())
}
