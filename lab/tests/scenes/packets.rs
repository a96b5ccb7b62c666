//! Goal: packets of NFLOG rules are in a pcapng file while they come, what a traced packet meets is in lbd's log, and who is sent copies
//! by TEE gets them.
//! Method: a real director with such rules, one client that gets a page or an echo, the file, the log, and a real server's link.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::server::ECHO_PORT;
use lab::topology::{self, CLIENT, VIP};
use lab::wire::Tap;
use lab::{LbdPlan, PATIENCE, Plan, Scene, client, until};

/// Of the virtual service.
const PORT: u16 = 80;

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

fn iptables(scene: &Scene, words: &str) -> Result<()> {
    let words: Vec<&str> = ["iptables"].into_iter().chain(words.split(' ')).collect();
    let output = scene.director.lbctl(&words)?.output()?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn packets_are_kept_in_a_file_and_traced_in_the_log() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = format!("[nflog]\ndirectory = {:?}\n", directory.path());
    let services = LbdPlan::usual_services(3, "rr") + &config;
    let scene = Scene::up(&Plan::default(), &LbdPlan { services, ..LbdPlan::default() })?;
    iptables(&scene, &format!("-t raw -A PREROUTING -p tcp --dport {PORT} -j TRACE"))?;
    iptables(&scene, &format!("-A INPUT -p tcp --dport {PORT} -j NFLOG --nflog-group 5 --nflog-prefix web"))?;
    client::curl(scene.lab.client(), &client::url(VIP.into(), PORT, "/"))?;

    let file = directory.path().join("nflog-5.pcapng");
    let wanted = ["\"web\" INPUT IN=wan OUT=", "GET / HTTP/1.1"];
    let traced = [
        "TRACE: raw:PREROUTING:policy:2 IN=wan OUT= MAC=".to_owned(),
        "TRACE: filter:INPUT:rule:1 IN=wan OUT= MAC=".to_owned(),
        format!("SRC={CLIENT} DST={VIP} "),
    ];
    let kept = until("packets kept and traced", PATIENCE, || {
        let (kept, log) = (fs::read(&file).ok()?, scene.director.log());
        let is_kept = wanted.iter().all(|part| contains(&kept, part));
        (is_kept && traced.iter().all(|part| log.contains(part))).then_some(kept)
    });
    let kept = kept.with_context(|| format!("logged:\n{}", scene.director.log()))?;
    ensure!(kept.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]), "a section begins the file");
    Ok(())
}

#[test]
fn a_copy_of_a_packet_comes_to_the_gateway_that_tee_names() -> Result<()> {
    let services = LbdPlan::usual_services(1, "rr");
    let scene = Scene::up(&Plan::default(), &LbdPlan { services, ..LbdPlan::default() })?;
    let (witness, gateway) = (&scene.lab.servers()[2], topology::server(2));
    iptables(
        &scene,
        &format!("-t mangle -A PREROUTING -p udp --dport {ECHO_PORT} -j TEE --gateway {gateway}"),
    )?;
    let link = Tap::open(witness, "eth0")?;
    // As the client sent it, to the witness's MAC address: neither its destination nor its data is another.
    let is_copy = |frame: &[u8]| {
        frame.get(26..34) == Some(&[CLIENT.octets(), VIP.octets()].concat()) && contains(frame, "for two")
    };
    let copy = until("the copy", PATIENCE, || {
        // Asked again: the director has to know the way there before there is something to copy.
        let answer = client::ask(scene.lab.client(), (VIP, ECHO_PORT).into(), b"for two").ok()?;
        assert_eq!(answer, b"s1 for two");
        link.receive("the copy", Duration::from_millis(500), is_copy).ok()
    })?;
    assert_eq!(copy[..6], link.mac());
    Ok(())
}
