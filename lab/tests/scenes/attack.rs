//! Goal: whatever comes in whatever number, nothing grows without limit, what is established goes on, and `/readyz` tells
//! the truth.
//! Method: floods on the wire and on the sockets of a running `lbd`; its memory, descriptors and ids are counted before and
//! after, and a thread of it is stopped to see who notices.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use lab::client::KeptOpen;
use lab::topology::VIP;
use lab::wire::Tap;
use lab::{Director, Lab, LbdPlan, PATIENCE, Plan, Scene, director, until};

/// More than `lbd` serves at a time on each of its sockets.
const CLIENTS: usize = 200;
/// What a process may grow by whose use of memory is flat: the allocator's slack. Each flood below brings many times that.
const SLACK_KIB: u64 = 16 * 1024;

/// Resident memory of `lbd`, KiB.
fn memory(director: &mut Director) -> Result<u64> {
    let pid = director.process().pid().context("it runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn descriptors(scene: &mut Scene) -> Result<usize> {
    let pid = scene.director.process().pid().context("it runs")?;
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Prints how many turns of the worker were long, and how often the host's scheduler took its CPU away meanwhile: on a
/// shared machine only the comparison says anything, so nothing is asserted.
fn report_turns(director: &mut Director, what: &str) -> Result<()> {
    let metrics = director.metrics()?;
    let turns = |turn: &str, le: &str| metrics.sum("lb_worker_turn_seconds_bucket", &[turn, le]);
    for turn in ["turn=\"busy\"", "turn=\"idle\""] {
        let all = turns(turn, "le=\"+Inf\"");
        let longer = ["0.00005", "0.0001", "0.0002", "0.0016"]
            .map(|bound| format!("{} > {bound} s", all - turns(turn, &format!("le=\"{bound}\""))));
        eprintln!("{what}: {turn}: {all} turns, {}", longer.join(", "));
    }
    let pid = director.process().pid().context("it runs")?;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        if status.starts_with("Name:\tworker") {
            let switches = status.lines().filter(|line| line.contains("ctxt_switches")).collect::<Vec<_>>();
            eprintln!("{what}: worker: {}", switches.join(", "));
        }
    }
    Ok(())
}

fn held(scene: &Scene) -> Result<KeptOpen> {
    let mut connection = KeptOpen::connect(scene.lab.client(), SocketAddr::new(VIP.into(), 80))?;
    connection.get("/")?;
    Ok(connection)
}

/// `/readyz` says yes: if not at once, as a worker's CPU may have been taken away for a second, then soon.
fn ready(director: &Director, when: &str) -> Result<()> {
    let is_ready = || matches!(director.get("/readyz"), Ok((200, _))).then_some(());
    until(&format!("ready {when}"), PATIENCE, is_ready)
}

/// What `/readyz` says once it says no.
fn not_ready(scene: &Scene, why: &str) -> Result<String> {
    until(why, PATIENCE, || match scene.director.get("/readyz") {
        Ok((503, said)) if said.contains(why) => Some(said),
        _ => None,
    })
}

#[test]
fn ten_thousand_services_made_and_flushed_again_and_again_leave_nothing() -> Result<()> {
    const SERVICES: u16 = 10_000;
    let lab = Lab::new()?;
    // A round's services are some 12 MiB, and this is after five rounds more. The heap is one for all threads: each that may do a batch
    // would keep one of that size else.
    const HEAP_KIB: u64 = 40 * 1024;
    let toml = LbdPlan::default().toml(&director::socket(lab.dir()));
    let mut lbd = Director::spawn_under(&lab, &toml, "lbd", &["env", "MALLOC_ARENA_MAX=1"])?;
    lbd.until_ready()?;
    let mut after_warm_up = 0;
    for round in 0..8_u8 {
        // Other real servers each time: the ids of 65,536 last for six rounds, if they are not taken back.
        let mut commands = vec!["\"flush\"".to_owned()];
        for port in 1..=SERVICES {
            let service = format!("\"service\":\"tcp/192.0.2.10:{port}\"");
            commands.push(format!("{{\"add_service\":{{{service}}}}}"));
            commands.push(format!(
                "{{\"add_server\":{{{service},\"server\":{{\"server\":\"10.0.{round}.11:{port}\"}}}}}}"
            ));
        }
        lbd.commands(&commands.join(","))?;
        let metrics = lbd.metrics()?;
        assert_eq!(metrics.sum("lb_tables_services", &[]), f64::from(SERVICES));
        lbd.until_metrics("the ids of removed servers", |metrics| {
            metrics.sum("lb_tables_removed_servers", &[]) == 0.0
        })?;
        eprintln!("round {round}: {} KiB", memory(&mut lbd)?);
        if round == 2 {
            after_warm_up = memory(&mut lbd)?;
        }
    }
    report_turns(&mut lbd, "services")?;
    let after = memory(&mut lbd)?;
    assert!(after < after_warm_up + HEAP_KIB, "from {after_warm_up} to {after} KiB");
    ready(&lbd, "after the services")
}

#[test]
fn clients_that_say_nothing_or_read_nothing_keep_nobody_out_and_cost_a_bounded_amount() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let mut connection = held(&scene)?;
    scene.director.metrics()?;
    let (memory_before, descriptors_before) = (memory(&mut scene.director)?, descriptors(&mut scene)?);
    let (mut of_api, mut of_metrics) = (Vec::new(), Vec::new());
    for number in 0..CLIENTS {
        let mut stream = UnixStream::connect(scene.director.socket())?;
        if number % 2 == 0 {
            write!(stream, "GET /v1/services HTTP/1.1\r\nhost: lb\r\n\r\n")?;
        }
        of_api.push(stream);
        let mut stream = scene.lab.director().enter(|| TcpStream::connect(director::HTTP))??;
        if number % 2 == 0 {
            write!(stream, "GET /metrics HTTP/1.1\r\nhost: lb\r\n\r\n")?;
        }
        of_metrics.push(stream);
        if number % 20 == 0 {
            ready(&scene.director, &format!("after {number}"))?;
            scene.director.ipvsadm("-L -n")?;
        }
    }
    assert_eq!(connection.get("/")?.len(), 3);
    // 64 on each socket; for a moment one that takes the place of the oldest.
    let mut most = 0;
    until(&format!("no more than 128 descriptors and the {descriptors_before} before"), PATIENCE, || {
        let now = descriptors(&mut scene).ok()?;
        most = most.max(now);
        (now <= descriptors_before + 2 * 64).then_some(())
    })?;
    assert!(most <= descriptors_before + 2 * 64 + 8, "from {descriptors_before} to {most}");
    let memory_after = memory(&mut scene.director)?;
    assert!(memory_after < memory_before + SLACK_KIB, "from {memory_before} to {memory_after} KiB");
    Ok(())
}

#[test]
fn a_syn_flood_fills_the_table_and_no_more_and_connections_go_on() -> Result<()> {
    const ROOM: u32 = 8192;
    let mut scene = Scene::up(&Plan::default(), &LbdPlan { max_connections: ROOM, ..LbdPlan::default() })?;
    // All of it is to get to the table, however slow the worker is.
    scene.director.run_lbctl("sysctl drop_newcomers=0")?;
    let mut connection = held(&scene)?;
    let wire = Tap::open(scene.lab.client(), "eth0")?;
    let director = scene.lab.director().mac("wan")?;
    let mut before = 0;
    let is_full = |scene: &Scene| -> Result<bool> {
        let gone = scene.director.metrics()?.sum("lb_conntrack_stat_early_drop", &[]);
        Ok(gone > f64::from(ROOM))
    };
    // What the link drops while the worker has no CPU is made up for.
    for number in 0..50 * ROOM {
        let client = Ipv4Addr::from(0xc612_0000 + number / 5);
        let frame = PacketBuilder::ethernet2(wire.mac(), director)
            .ipv4(client.octets(), VIP.octets(), 64)
            .tcp(1024 + (number % 5) as u16, 80, number, 1024)
            .syn();
        let mut bytes = Vec::with_capacity(frame.size(0));
        frame.write(&mut bytes, &[])?;
        wire.send(&bytes)?;
        if number % ROOM == 0 {
            assert_eq!(connection.get("/")?.len(), 3, "after {number} SYNs");
            ready(&scene.director, &format!("after {number} SYNs"))?;
            if number >= 10 * ROOM && is_full(&scene)? {
                break;
            }
        }
        if number == 2 * ROOM {
            before = memory(&mut scene.director)?;
        }
    }
    report_turns(&mut scene.director, "SYN flood")?;
    assert!(is_full(&scene)?, "half-open ones go for others");
    let alarm = || {
        let status = scene.director.lbctl(&["status"]).ok()?.output().ok()?;
        String::from_utf8_lossy(&status.stdout).contains("alarm: the flow table is full").then_some(())
    };
    until("an alarm", PATIENCE, alarm)?;
    assert!(scene.director.metrics()?.sum("lb_conntrack_entries", &[]) <= f64::from(ROOM));
    let after = memory(&mut scene.director)?;
    assert!(after < before + SLACK_KIB, "from {before} to {after} KiB");
    assert_eq!(connection.get("/")?.len(), 3);
    Ok(())
}

#[test]
fn readiness_says_so_when_a_worker_stands_still_and_when_it_goes_on() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    ready(&scene.director, "before")?;
    let frozen = scene.director.process().freeze("worker 0")?;
    not_ready(&scene, "worker 0 on CPU")?;
    // It cannot adopt what is published now.
    scene.director.ipvsadm("-A -t 192.0.2.10:8081 -s rr")?;
    let said = not_ready(&scene, "published are")?;
    assert!(said.contains("stands still since"), "{said}");
    drop(frozen);
    ready(&scene.director, "again")?;
    assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"]);
    Ok(())
}

#[test]
fn readiness_says_so_when_a_twin_is_deleted() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    scene.lab.director().ip("link delete lan")?;
    not_ready(&scene, "port lan: its twin is gone")?;
    Ok(())
}
