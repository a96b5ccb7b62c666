//! Goal: with `idle = "interrupt"` a director without traffic costs nothing, and answers the first packet that comes.
//! Method: `net_tap`, which has receive interrupts; the time on a CPU of its worker over a silence, beside that of one that naps.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::server::ECHO_PORT;
use lab::topology::VIP;
use lab::{Driver, LbdPlan, Plan, Scene, client};

/// Behind it a worker naps for longer.
const CALM: Duration = Duration::from_millis(1100);
const SILENCE: Duration = Duration::from_secs(1);

/// What the director's worker had of a CPU so far, in nanoseconds.
fn spent(scene: &mut Scene) -> Result<u64> {
    let pid = scene.director.process().pid().context("lbd runs")?;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == "worker 0" {
            let text = fs::read_to_string(task.join("schedstat"))?;
            return text.split(' ').next().unwrap_or_default().parse().context("a time");
        }
    }
    bail!("no worker")
}

/// Serves by TAP, and says what the worker took of a CPU while nothing came.
fn of_a_silence(idle: &'static str) -> Result<u64> {
    let lbd = LbdPlan { driver: Driver::Tap, idle, ..LbdPlan::default() };
    let mut scene = Scene::up(&Plan::default(), &lbd)?;
    assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"]);
    std::thread::sleep(CALM);
    let before = spent(&mut scene)?;
    std::thread::sleep(SILENCE);
    let spent = spent(&mut scene)? - before;
    let service = SocketAddr::new(VIP.into(), ECHO_PORT);
    assert!(!client::ask_once(scene.lab.client(), service, b"still there?")?.is_empty());
    std::thread::sleep(SILENCE / 4);
    assert_eq!(client::ping(scene.lab.client(), lab::topology::DIRECTOR.into(), 3, &[])?, 3, "by the twin");
    assert_eq!(scene.who_serves(VIP, 6)?.len(), 6);
    let log = scene.director.log();
    assert_eq!(log.contains("rx interrupt"), idle == "interrupt", "{log}");
    Ok(spent)
}

#[test]
fn a_worker_that_sleeps_until_an_interrupt_takes_no_cpu_and_answers_after_a_silence() -> Result<()> {
    let (naps, sleeps) = std::thread::scope(|scope| {
        let naps = scope.spawn(|| of_a_silence("sleep"));
        let sleeps = of_a_silence("interrupt");
        (naps.join(), sleeps)
    });
    let (Ok(naps), sleeps) = (naps, sleeps?) else { bail!("a thread panicked") };
    let naps = naps?;
    eprintln!("of {SILENCE:?}: {naps} ns with naps, {sleeps} ns with interrupts");
    assert!(sleeps * 3 < naps, "{sleeps} ns on a CPU, {naps} with naps");
    Ok(())
}

#[test]
fn two_workers_that_sleep_wake_each_other_for_what_they_hand_over() -> Result<()> {
    let lbd = LbdPlan { driver: Driver::Tap, workers: vec![0, 1], idle: "interrupt", ..LbdPlan::default() };
    let scene = Scene::up(&Plan::default(), &lbd)?;
    for _ in 0..20 {
        scene.who_serves(VIP, 1)?;
        scene.who_echoes(VIP, 1)?;
        // Longer than a worker stays up.
        std::thread::sleep(Duration::from_millis(20));
    }
    let metrics = scene.director.metrics()?;
    assert!(metrics.sum("lb_worker_handed_over_total", &[]) > 0.0, "{:?}", metrics.names());
    Ok(())
}

#[test]
fn a_port_without_interrupts_is_named_and_its_workers_nap_and_serve() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan { idle: "interrupt", ..LbdPlan::default() })?;
    assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"]);
    let log = scene.director.log();
    assert!(log.contains("port wan: net_af_xdp has no receive interrupts"), "{log}");
    let ports = scene.director.run_lbctl("ports")?;
    assert!(ports.contains("wan: one worker has all; it has no receive interrupts"), "{ports}");
    Ok(())
}
