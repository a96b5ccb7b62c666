//! Goal: a rule lets by or stops what an IP set says, at once when an element comes or goes, and a rule puts into a set who came by.
//! Method: `ipset` and `iptables` as operators type them before a virtual service; a client that a set may name; a restart.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lab::server::ECHO_PORT;
use lab::topology::{CLIENT, VIP};
use lab::{Director, LbdPlan, PATIENCE, Plan, Scene, client, until};

#[test]
fn who_is_in_a_set_is_stopped_while_it_is_there() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let service = SocketAddr::new(VIP.into(), ECHO_PORT);
    for words in [
        "ipset create bad hash:net timeout 0 counters",
        "ipset create seen hash:ip",
        "ipset create both list:set",
        "ipset add both bad",
        "iptables -A INPUT -m set --match-set both src -j DROP",
        "iptables -A INPUT -p udp -j SET --add-set seen src",
    ] {
        scene.director.run_lbctl(words)?;
    }
    let is_served = |scene: &Scene| client::ask(scene.lab.client(), service, b"?").is_ok();
    let is_stopped = |scene: &Scene| client::ask_in_vain(scene.lab.client(), service, b"?").is_err();
    ensure!(is_served(&scene), "no set names the client");
    until("who came by", PATIENCE, || {
        let seen = scene.director.run_lbctl("ipset list seen").ok()?;
        seen.contains(&format!("\n{CLIENT}\n")).then_some(())
    })?;
    let [a, b, c, _] = CLIENT.octets();
    let network = format!("{a}.{b}.{c}.0/24");
    scene.director.run_lbctl(&format!("ipset add bad {network}"))?;
    ensure!(is_stopped(&scene), "its network is in the set");
    let listed = scene.director.run_lbctl("ipset list bad")?;
    let counted = |line: &&str| line.starts_with(&network) && !line.contains("packets 0 ");
    ensure!(listed.lines().any(|line| counted(&line)), "{listed}");
    scene.director.run_lbctl(&format!("ipset add bad {CLIENT} nomatch"))?;
    ensure!(is_served(&scene), "the client is an exception");
    scene.director.run_lbctl(&format!("ipset del bad {CLIENT}"))?;
    let refused = scene.director.run_lbctl("ipset destroy bad");
    ensure!(refused.is_err(), "a list names it");
    scene.director.stop()?;
    scene.director = Director::start(&scene.lab, &LbdPlan::default())?;
    ensure!(is_stopped(&scene), "sets and rules outlive the daemon's process");
    scene.director.run_lbctl("ipset flush bad")?;
    ensure!(is_served(&scene), "the set is empty");
    Ok(())
}
