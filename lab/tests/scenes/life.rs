//! Goal: `lbd` starts, ends and fails cleanly.
//! Method: what Linux says is there (links, programs, sockets) before, during and after.

use std::process::ExitStatus;

use anyhow::Result;
use lab::topology::{LAN_LINK, VIP, WAN_LINK};
use lab::{Director, Driver, Lab, LbdPlan, PATIENCE, Plan, Scene, director};
use nix::sys::signal::Signal;

/// The links of the director's namespace with their details, without the counters that change by themselves.
fn links(lab: &Lab) -> Result<String> {
    lab.director().ip("-d link show")
}

/// Their names; their state changes by itself while a lab comes up.
fn link_names(lab: &Lab) -> Result<Vec<String>> {
    let links = lab.director().ip("-o link show")?;
    Ok(links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect())
}

/// Runs `lbd` on a config that it cannot start with: how it ended, and what it said.
fn failed_start(lab: &Lab, toml: &str) -> Result<(ExitStatus, String)> {
    let mut lbd = Director::spawn_on(lab, toml, "second")?;
    let status = lbd.process().wait(PATIENCE)?;
    Ok((status, lbd.log()))
}

/// One line names the object, and the exit code is 1.
fn assert_refused(outcome: &(ExitStatus, String), names: &str) {
    let (status, log) = outcome;
    assert_eq!(status.code(), Some(1), "{log}");
    let naming: Vec<&str> = log.lines().filter(|line| line.contains(names)).collect();
    assert!(!naming.is_empty(), "no line names {names}: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

fn sigterm_leaves_nothing(driver: Driver) -> Result<()> {
    let scene =
        Scene::up(&Plan::default(), &LbdPlan { driver, flow_memory: Some("none"), ..LbdPlan::default() })?;
    let during = links(&scene.lab)?;
    assert!(during.contains(": wan: ") && during.contains(": lan: "), "no twins: {during}");
    assert_eq!(during.contains("prog/xdp"), driver == Driver::AfXdp, "{during}");
    scene.who_serves(VIP, 3)?;
    let (socket, lab) = (scene.director.socket(), scene.lab);
    assert!(socket.exists());
    let (status, log) = scene.director.stop()?;
    assert!(status.success(), "{status}: {log}");
    let after = links(&lab)?;
    for gone in ["prog/xdp", "PROMISC", ": wan: ", ": lan: "] {
        assert!(!after.contains(gone), "{gone} is left: {after}");
    }
    assert!(after.contains(WAN_LINK) && after.contains(LAN_LINK), "{after}");
    assert!(!socket.exists(), "the socket is left");
    Ok(())
}

#[test]
fn sigterm_leaves_no_program_twin_or_socket_behind_on_af_xdp() -> Result<()> {
    sigterm_leaves_nothing(Driver::AfXdp)
}

#[test]
fn sigterm_leaves_no_twin_or_socket_behind_on_af_packet() -> Result<()> {
    sigterm_leaves_nothing(Driver::AfPacket)
}

#[test]
fn after_kill_9_it_starts_again_serves_and_says_what_it_cleaned_up() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    scene.director.process().signal(Signal::SIGKILL)?;
    scene.director.process().wait(PATIENCE)?;
    let socket = scene.director.socket();
    assert!(socket.exists(), "a killed lbd cannot have removed its socket");
    scene.director = Director::start(&scene.lab, &LbdPlan::default())?;
    assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"]);
    let log = scene.director.log();
    let socket = socket.to_string_lossy();
    assert!(log.lines().any(|line| line.contains(&*socket) && line.contains("killed lbd left")), "{log}");
    Ok(())
}

#[test]
fn a_second_lbd_on_the_same_socket_is_refused_and_the_first_serves_on() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let socket = scene.director.socket();
    let outcome = failed_start(&scene.lab, &LbdPlan::default().toml(&socket))?;
    assert_refused(&outcome, &socket.to_string_lossy());
    assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"]);
    assert!(scene.director.ipvsadm("-L -n")?.contains("192.0.2.10:80"));
    Ok(())
}

#[test]
fn a_port_that_is_not_there_is_named_and_nothing_is_left() -> Result<()> {
    let lab = Lab::new()?;
    let before = link_names(&lab)?;
    let socket = director::socket(lab.dir());
    let toml = LbdPlan::default().toml(&socket).replace(LAN_LINK, "nosuch0");
    let outcome = failed_start(&lab, &toml)?;
    assert_refused(&outcome, "nosuch0");
    assert_eq!(link_names(&lab)?, before);
    assert!(!links(&lab)?.contains("prog/xdp"));
    assert!(!socket.exists());
    Ok(())
}

#[test]
fn a_driver_that_dpdk_does_not_know_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let socket = director::socket(lab.dir());
    let toml = LbdPlan::default().toml(&socket).replace("net_af_xdp1", "net_nosuch1");
    assert_refused(&failed_start(&lab, &toml)?, "net_nosuch1");
    assert!(!socket.exists());
    Ok(())
}

#[test]
fn a_queue_that_another_process_has_is_named_and_the_other_serves_on() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let socket = scene.lab.dir().join("second.sock");
    let toml = LbdPlan::default()
        .toml(&socket)
        .replace("name = \"wan\"", "name = \"wan2\"")
        .replace("name = \"lan\"", "name = \"lan2\"")
        .replace(":9477", ":9478");
    assert_refused(&failed_start(&scene.lab, &toml)?, WAN_LINK);
    assert!(!socket.exists());
    let left = links(&scene.lab)?;
    assert!(!left.contains("wan2") && !left.contains("lan2"), "{left}");
    assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"]);
    Ok(())
}
