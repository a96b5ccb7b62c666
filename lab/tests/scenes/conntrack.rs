//! Goal: what `conntrack` shows, sets and ends is what real traffic made. Method: a routed connection while there is a rule, and one of a virtual
//! service; `lbctl conntrack` over a running `lbd`, and over the next one after a kill; a call between two phones, of which one is behind the director.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use lab::server::ECHO_PORT;
use lab::topology::{self, CLIENT, DIRECTOR, VIP};
use lab::{Director, LbdPlan, Namespace, PATIENCE, Plan, Scene};
use nix::sys::signal::Signal;

fn lbctl(scene: &Scene, words: &str) -> Result<(i32, String)> {
    let words: Vec<&str> = words.split(' ').collect();
    let output = scene.director.lbctl(&words)?.output()?;
    let text = String::from_utf8(output.stdout)? + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().context("it was killed")?, text))
}

fn ask(socket: &UdpSocket) -> Result<()> {
    socket.send(b"?")?;
    socket.recv(&mut [0; 64]).context("no answer")?;
    Ok(())
}

#[test]
fn connections_are_shown_changed_and_ended_and_go_on_after_a_kill() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    scene.lab.client().ip("route add 10.0.0.0/24 via 192.0.2.1")?;
    let (code, text) = lbctl(&scene, "iptables -A FORWARD -p tcp --dport 9 -j DROP")?;
    ensure!(code == 0, "{text}");
    lbctl(&scene, "sysctl nf_conntrack_acct=1 nf_conntrack_udp_timeout=500")?;
    let socket = |to: std::net::Ipv4Addr| -> Result<UdpSocket> {
        let socket = scene.lab.client().enter(|| UdpSocket::bind((CLIENT, 0)))??;
        socket.connect(SocketAddr::new(to.into(), ECHO_PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let server = topology::server(0);
    let (routed, served) = (socket(server)?, socket(VIP)?);
    ask(&routed)?;
    ask(&served)?;
    let port = routed.local_addr()?.port();

    let of_routed = format!("conntrack -L -p udp -d {server}");
    let (_, text) = lbctl(&scene, &of_routed)?;
    let begin = format!("src={CLIENT} dst={server} sport={port} dport={ECHO_PORT} packets=1 bytes=29 ");
    let end = format!("src={server} dst={CLIENT} sport={ECHO_PORT} dport={port} packets=1 bytes=");
    ensure!(text.contains(&begin) && text.contains(&end) && text.contains(" mark=0 use=1\n"), "{text}");
    ensure!(!text.contains("[UNREPLIED]"), "{text}");

    for of in [server, VIP] {
        let (code, text) = lbctl(&scene, &format!("conntrack -U -p udp -d {of} -m 5"))?;
        ensure!(
            code == 0 && text.contains("mark=5 ") && text.contains("1 flow entries have been updated."),
            "{text}"
        );
        let (_, text) = lbctl(&scene, &format!("conntrack -L -p udp -d {of}"))?;
        ensure!(text.contains("mark=5 "), "{text}");
    }

    scene.director.process().signal(Signal::SIGKILL)?;
    scene.director.process().wait(PATIENCE)?;
    scene.director = Director::start(&scene.lab, &LbdPlan::default())?;
    let (_, text) = lbctl(&scene, &of_routed)?;
    ensure!(text.contains("mark=5 ") && text.contains(&format!("sport={port} ")), "{text}");
    ask(&routed)?;
    let (_, text) = lbctl(&scene, &of_routed)?;
    ensure!(text.contains("1 flow entries have been shown."), "the same one goes on: {text}");

    // Two with one tuple in two zones: one that packets make, and one without.
    let ends = format!("-p udp -s {CLIENT} -d {server} --sport {port} --dport {ECHO_PORT}");
    let (code, text) = lbctl(&scene, &format!("conntrack -I {ends} -t 60"))?;
    ensure!(code == 1 && text.contains("Such conntrack exists, try -U to update"), "{text}");
    let (code, text) = lbctl(&scene, &format!("conntrack -I {ends} -t 60 -w 3 -g {}", topology::server(1)))?;
    ensure!(code == 0 && text.contains("1 flow entries have been created."), "{text}");
    ask(&routed)?;
    lbctl(&scene, "iptables -t raw -A PREROUTING -p udp -j CT --zone 3")?;
    // It is asked there and answered from there, and nobody sees it.
    ask(&routed)?;
    let (_, text) = lbctl(&scene, "conntrack -L -p udp -w 3")?;
    let begin = format!(
        "src={CLIENT} dst={server} sport={port} dport={ECHO_PORT} packets=1 bytes=29 src={} ",
        topology::server(1)
    );
    ensure!(text.contains(&begin) && text.contains(" zone=3 use=1\n"), "{text}");
    lbctl(&scene, "iptables -t raw -F")?;
    lbctl(&scene, "conntrack -D -w 3")?;

    let (code, text) = lbctl(&scene, &format!("conntrack -D -p udp -d {server}"))?;
    ensure!(code == 0 && text.contains("1 flow entries have been deleted."), "{text}");
    let (_, text) = lbctl(&scene, &of_routed)?;
    ensure!(text.contains("0 flow entries have been shown."), "{text}");
    lbctl(&scene, "conntrack -F")?;
    ensure!(lbctl(&scene, "conntrack -C")?.1 == "0\n");
    Ok(())
}

/// A message of SIP with a session description: the first line, whom it is from and to, where media are awaited.
fn message(first: &str, (from, to): (Ipv4Addr, Ipv4Addr), media: (Ipv4Addr, u16)) -> String {
    let (address, port) = media;
    let body = format!(
        "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
    );
    let length = body.len();
    format!(
        "{first}\r\nVia: SIP/2.0/UDP {from}:5060;branch=z9hG4bK1\r\nFrom: <sip:a@{from}:5060>;tag=1\r\nTo: <sip:b@{to}>\r\n\
         Call-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn where_a_rule_gives_sips_helper_a_call_through_masquerade_is_heard_both_ways() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    for rule in [
        "-t raw -A PREROUTING -p udp --dport 5060 -j CT --helper sip",
        "-t nat -A POSTROUTING -o wan -j MASQUERADE",
        "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A FORWARD -i lan -p udp --dport 5060 -j ACCEPT",
        "-P FORWARD DROP",
    ] {
        scene.director.run_lbctl(&format!("iptables {rule}"))?;
    }
    let (inside, outside) = (&scene.lab.servers()[0], scene.lab.client());
    let alice = topology::server(0);
    let socket = |namespace: &Namespace, address: Ipv4Addr, port: u16| -> Result<UdpSocket> {
        let socket = namespace.enter(|| UdpSocket::bind((address, port)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let (phone, ear) = (socket(inside, alice, 5060)?, socket(inside, alice, 10000)?);
    let (other, other_ear) = (socket(outside, CLIENT, 5060)?, socket(outside, CLIENT, 20000)?);
    let heard = |socket: &UdpSocket, what: &str| -> Result<(String, SocketAddr)> {
        let mut bytes = [0; 2048];
        let (len, from) = socket.recv_from(&mut bytes).with_context(|| format!("{what} did not come"))?;
        Ok((String::from_utf8_lossy(&bytes[..len]).into_owned(), from))
    };

    let first = format!("INVITE sip:b@{CLIENT} SIP/2.0");
    phone.send_to(message(&first, (alice, CLIENT), (alice, 10000)).as_bytes(), (CLIENT, 5060))?;
    let (text, from) = heard(&other, "INVITE")?;
    assert_eq!(text, message(&first, (DIRECTOR, CLIENT), (DIRECTOR, 10000)));
    let answer = |from, media| message("SIP/2.0 200 OK", (from, CLIENT), media);
    other.send_to(answer(DIRECTOR, (CLIENT, 20000)).as_bytes(), from)?;
    assert_eq!(heard(&phone, "the answer")?.0, answer(alice, (CLIENT, 20000)));
    let (_, expected) = lbctl(&scene, "conntrack -L expect -p udp")?;
    let line = format!("src={CLIENT} dst={DIRECTOR} sport=0 dport=10001 mask-src=255.255.255.255 ");
    ensure!(expected.contains(&line) && expected.contains(" helper=sip\n"), "{expected}");
    ensure!(expected.contains("4 expectations have been shown."), "{expected}");

    other_ear.send_to(b"rtp", (DIRECTOR, 10000))?;
    let (_, from) = heard(&ear, "the other's voice")?;
    ear.send_to(b"rtp", from)?;
    assert_eq!(heard(&other_ear, "the voice")?.1, SocketAddr::new(DIRECTOR.into(), 10000));
    other.send_to(b"BYE sip:a@192.0.2.1 SIP/2.0\r\nCSeq: 2 BYE\r\n\r\n", (DIRECTOR, 5060))?;
    let (text, _) = heard(&phone, "BYE")?;
    ensure!(text.starts_with(&format!("BYE sip:a@{alice}:5060 SIP/2.0")), "{text}");
    let (_, expected) = lbctl(&scene, "conntrack -L expect")?;
    ensure!(expected.contains("0 expectations have been shown."), "{expected}");
    Ok(())
}
