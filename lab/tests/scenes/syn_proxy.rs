//! Goal: under a flood of SYNs that nobody means, real clients get real answers, and nothing is kept of the flood.
//! Method: `SYNPROXY` as its manual page has it, in front of a virtual service, and a service that sees to it itself; SYNs from thousands of addresses on the client's wire; curl, and
//! a file that is long enough for windows, timestamps and selective acknowledgements to matter.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use lab::topology::VIP;
use lab::wire::Tap;
use lab::{LbdPlan, PATIENCE, Plan, Scene, client, server, until};

const SYNS: u32 = 20_000;

/// Sends SYNs from as many ends.
fn flood(scene: &Scene) -> Result<()> {
    let wire = Tap::open(scene.lab.client(), "eth0")?;
    let link = scene.lab.director().ip("link show wan")?;
    let mac = link.split("link/ether ").nth(1).and_then(|rest| rest.get(..17)).unwrap_or_default();
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    let director: [u8; 6] = mac.as_slice().try_into()?;
    for number in 0..SYNS {
        let from = Ipv4Addr::from(0xc612_0000 + number);
        let frame = PacketBuilder::ethernet2(wire.mac(), director)
            .ipv4(from.octets(), VIP.octets(), 64)
            .tcp(4000, 80, number, 1024)
            .syn();
        let mut bytes = Vec::with_capacity(frame.size(0));
        frame.write(&mut bytes, &[])?;
        wire.send(&bytes)?;
    }
    Ok(())
}

fn lbctl(scene: &Scene, line: &str) -> Result<()> {
    let status = scene.director.lbctl(&line.split(' ').collect::<Vec<_>>())?.status()?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

#[test]
fn clients_are_served_while_a_flood_of_syns_is_answered_and_forgotten() -> Result<()> {
    const MEBIBYTES: usize = 8;
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let file = server::serve_file(&scene.lab, "long", MEBIBYTES)?;
    for line in [
        // All of the flood is to be answered, however slow the worker is.
        "sysctl drop_newcomers=0",
        "sysctl nf_conntrack_tcp_loose=0",
        "iptables -t raw -A PREROUTING -p tcp -m tcp --syn --dport 80 -j CT --notrack",
        "iptables -A INPUT -p tcp -m tcp --dport 80 -m state --state INVALID,UNTRACKED -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460",
        "iptables -A INPUT -m state --state INVALID -j DROP",
    ] {
        lbctl(&scene, line)?;
    }
    let page = client::url(VIP.into(), 80, "/");
    ensure!(client::curl(scene.lab.client(), &page)?.starts_with('s'));
    flood(&scene)?;
    for _ in 0..3 {
        ensure!(client::curl(scene.lab.client(), &page)?.starts_with('s'));
    }
    let long = client::url(VIP.into(), 80, "/files/long");
    let got = scene.lab.client().output(60, "curl", &["-sS", "--max-time", "50", &long])?;
    ensure!(got.status.success() && got.stdout == file, "{} of {} bytes", got.stdout.len(), file.len());
    until("the flood", PATIENCE, || {
        let received = scene.director.metrics().ok()?.sum("lb_synproxy_syn_received_total", &[]);
        let is_enough = received > f64::from(SYNS / 2);
        // What the link dropped while the worker had no CPU is not told: it is made up for.
        if is_enough { Some(()) } else { flood(&scene).ok().and(None) }
    })?;
    let metrics = scene.director.metrics()?;
    let count = |name: &str| metrics.sum(name, &[]);
    ensure!(count("lb_synproxy_cookie_valid_total") >= 5.0);
    ensure!(count("lb_conntrack_entries") < 20.0, "{} connections", count("lb_conntrack_entries"));
    Ok(())
}

#[test]
fn a_service_turns_to_cookies_while_a_flood_comes() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let page = client::url(VIP.into(), 80, "/");
    scene.director.ipvsadm(&format!("-E -t {VIP}:80 -s rr --syn-cookies auto:200"))?;
    ensure!(client::curl(scene.lab.client(), &page)?.starts_with('s'));
    let on = || -> Result<f64> {
        Ok(scene.director.metrics()?.sum("lb_ipvs_syn_cookies", &["local_port=\"80\""]))
    };
    ensure!(on()? == 0.0, "one connection is no flood");
    // They go off again a while after a flood, which may be over before a slow machine has looked.
    until("cookies", PATIENCE, || {
        flood(&scene).ok()?;
        let is_served = client::curl(scene.lab.client(), &page).is_ok_and(|page| page.starts_with('s'));
        (is_served && on().ok()? == 1.0).then_some(())
    })?;
    until("cookies in the status", PATIENCE, || {
        let status = scene.director.run_lbctl("status").ok()?;
        let is_said = status.contains(&format!("SYN cookies  tcp/{VIP}:80"));
        if is_said { Some(()) } else { flood(&scene).ok().and(None) }
    })?;
    let entries = scene.director.metrics()?.sum("lb_conntrack_entries", &[]);
    ensure!(entries < f64::from(SYNS / 4), "{entries} connections");
    Ok(())
}
