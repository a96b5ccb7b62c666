//! Goal: what `conntrack` shows, sets and ends is what real traffic made. Method: a routed connection while there is a rule, and one of a virtual
//! service; `lbctl conntrack` over a running `lbd`, and over the next one after a kill.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use lab::server::ECHO_PORT;
use lab::topology::{self, CLIENT, VIP};
use lab::{Director, LbdPlan, PATIENCE, Plan, Scene};
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
