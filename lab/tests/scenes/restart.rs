//! Goal: a restart of `lbd`, however it ended, loses no connection.
//! Method: real clients and servers with connections that are open, downloads that run and datagrams that come and go
//! while `lbd` is killed (or stopped) and started again. What must hold is asserted; how long it took is printed.
//!
//! `LB_CONNECTIONS=100000` makes the crowd of the first test as large as that; by itself it is 20,000.

use std::fs::{self, OpenOptions};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::client::KeptOpen;
use lab::crowd::{CROWD_PORT, Crowd, Echo};
use lab::server::{ECHO_PORT, serve_file};
use lab::topology::{self, VIP, VIP_V6};
use lab::{Director, Driver, Lab, LbdPlan, PATIENCE, Plan, Scene, client, director, until};

/// The usual services and one for the crowd.
fn plan() -> LbdPlan {
    let servers: Vec<_> =
        (0..3).map(|n| (SocketAddr::new(topology::server(n).into(), CROWD_PORT), 1)).collect();
    let crowd = LbdPlan::service(SocketAddr::new(VIP.into(), CROWD_PORT), "tcp", "rr", &servers);
    let usual = LbdPlan::default();
    LbdPlan { services: usual.services.clone() + &crowd, ..usual }
}

/// A lab with servers for the crowd too.
fn scene(lab: &Plan, lbd: &LbdPlan, crowd: usize) -> Result<(Vec<Echo>, Scene)> {
    let scene = Scene::up(lab, lbd)?;
    let servers = scene.lab.servers();
    let each = crowd / servers.len();
    let echoes = servers.iter().map(|server| Echo::start(server, each)).collect::<Result<_>>()?;
    Ok((echoes, scene))
}

fn crowd(scene: &Scene, count: usize) -> Result<Crowd> {
    let began = Instant::now();
    let crowd = Crowd::open(scene.lab.client(), SocketAddrV4::new(VIP, CROWD_PORT), count)?;
    println!("{} of {count} connections are open after {:?}", crowd.len(), began.elapsed());
    Ok(crowd)
}

fn all_answer(crowd: &mut Crowd) -> Result<()> {
    let round = crowd.round(PATIENCE)?;
    ensure!(round.answered == crowd.len(), "{} of {}: {:?}", round.answered, crowd.len(), round.problems);
    Ok(())
}

/// UDP flows, each with the name of the real server that it has.
fn flows(scene: &Scene, count: usize) -> Result<Vec<(UdpSocket, String)>> {
    let flow = |number: usize| {
        let (vip, any) =
            if number.is_multiple_of(2) { (VIP.into(), "0.0.0.0:0") } else { (VIP_V6.into(), "[::]:0") };
        let socket = scene.lab.client().enter(|| UdpSocket::bind(any))??;
        socket.connect(SocketAddr::new(vip, ECHO_PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let server = client::who_answers(&socket)?;
        Ok((socket, server))
    };
    (0..count).map(flow).collect()
}

/// The longest time without an answer on one UDP flow that asks every millisecond, while `work` is done.
fn longest_gap<T>(scene_client: &lab::Namespace, work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let socket = scene_client.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    socket.connect((VIP, ECHO_PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !is_done.load(Relaxed) {
                let _lost_like_any_datagram = socket.send(b"?");
                if socket.recv(&mut [0; 64]).is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            longest.max(last.elapsed())
        });
        let outcome = work();
        is_done.store(true, Relaxed);
        let longest = prober.join().map_err(|_| anyhow::anyhow!("the prober panicked"))?;
        Ok((longest, outcome?))
    })
}

/// The number in `key=number` of the log line that says what was carried over.
fn carried(log: &str, key: &str) -> Result<usize> {
    let line = log.lines().find(|line| line.contains("carried over")).with_context(|| log.to_owned())?;
    let value = line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    value.and_then(|number| number.parse().ok()).with_context(|| line.to_owned())
}

fn is_nothing_lost(log: &str) -> Result<()> {
    for key in ["lost_no_server", "lost_no_room", "damaged"] {
        ensure!(carried(log, key)? == 0, "{log}");
    }
    Ok(())
}

#[test]
fn kill_9_under_open_connections_and_running_transfers_loses_none() -> Result<()> {
    let count = std::env::var("LB_CONNECTIONS").map_or(Ok(20_000), |count| count.parse())?;
    let lbd = LbdPlan { max_connections: 2 * count as u32 + 2000, ..plan() };
    let (_echoes, mut scene) = scene(&Plan::default(), &lbd, count)?;
    let content = serve_file(&scene.lab, "large", 32)?;
    let content_length = content.len();
    let mut crowd = crowd(&scene, count)?;
    let count = crowd.len();
    let flows = flows(&scene, 20)?;
    // They run slowly all the while, and not to their end before lbd is back.
    let is_back = Arc::new(AtomicBool::new(false));
    let mut downloads = Vec::new();
    for vip in [VIP.into(), VIP_V6.into()] {
        let mut download = KeptOpen::connect(scene.lab.client(), SocketAddr::new(vip, 80))?;
        download.set_patience(PATIENCE)?;
        let is_back = is_back.clone();
        let begun = Arc::new(AtomicBool::new(false));
        let has_begun = begun.clone();
        downloads.push(std::thread::spawn(move || {
            download.ask("/files/large")?;
            download.read(&mut |bytes| {
                begun.store(true, Relaxed);
                while !is_back.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(8));
                    if bytes < content_length / 2 {
                        break;
                    }
                }
            })
        }));
        until("a download", PATIENCE, || has_begun.load(Relaxed).then_some(()))?;
    }
    let client = scene.lab.client().clone();
    let (gap, ()) = longest_gap(&client, || {
        std::thread::sleep(Duration::from_millis(100));
        scene.director.process().signal(nix::sys::signal::Signal::SIGKILL)?;
        scene.director.process().wait(PATIENCE)?;
        let began = Instant::now();
        scene.director = Director::spawn(&scene.lab, &lbd, "lbd")?;
        // Begun while nobody is there: TCP repeats it.
        crowd.say()?;
        scene.director.until_ready()?;
        let round = crowd.listen(PATIENCE)?;
        println!(
            "{} of {count} connections have answered {:?} after the kill",
            round.answered,
            began.elapsed()
        );
        ensure!(round.answered == count, "{round:?}");
        is_back.store(true, Relaxed);
        Ok(())
    })?;
    println!("longest time without an answer to a datagram: {gap:?}");
    for download in downloads {
        let got = download.join().map_err(|_| anyhow::anyhow!("the download panicked"))??;
        ensure!(got == content, "a download differs");
    }
    for (socket, server) in &flows {
        ensure!(client::who_answers(socket)? == *server, "a UDP flow went to another real server");
    }
    all_answer(&mut crowd)?;
    let log = scene.director.log();
    println!("{}", log.lines().find(|line| line.contains("carried over")).unwrap_or_default());
    is_nothing_lost(&log)?;
    // The crowd, the flows, the downloads and the prober.
    let connections = carried(&log, "connections")?;
    ensure!(connections >= count + 23, "{log}");
    let metrics = scene.director.metrics()?;
    ensure!(metrics.sum("lb_conntrack_carried_over_total", &[]) == connections as f64);
    Ok(())
}

#[test]
fn a_stop_and_a_start_with_another_number_of_workers_loses_none() -> Result<()> {
    let one = LbdPlan { driver: Driver::AfPacket, ..plan() };
    let (_echoes, mut scene) = scene(&Plan { queues: 2, ..Plan::default() }, &one, 2000)?;
    let mut crowd = crowd(&scene, 2000)?;
    let flows = flows(&scene, 10)?;
    for workers in [vec![0, 1], vec![1]] {
        let (status, log) = scene.director.stop()?;
        ensure!(status.success(), "{log}");
        let next = LbdPlan { workers, max_connections: 8192, ..one.clone() };
        scene.director = Director::start(&scene.lab, &next)?;
        all_answer(&mut crowd)?;
        for (socket, server) in &flows {
            ensure!(client::who_answers(socket)? == *server, "a UDP flow went to another real server");
        }
        is_nothing_lost(&scene.director.log())?;
    }
    Ok(())
}

#[test]
fn connections_whose_server_is_not_in_the_config_any_more_are_counted_and_the_others_go_on() -> Result<()> {
    let (_echoes, mut scene) = scene(&Plan::default(), &plan(), 300)?;
    let mut crowd = crowd(&scene, 300)?;
    scene.director.kill()?;
    let two = LbdPlan { services: plan().services.replace("10.0.0.13:7777", "10.0.0.99:7777"), ..plan() };
    scene.director = Director::start(&scene.lab, &two)?;
    let log = scene.director.log();
    ensure!(carried(&log, "connections")? + carried(&log, "lost_no_server")? == 300, "{log}");
    ensure!(carried(&log, "lost_no_server")? == 100, "a third of them: {log}");
    let round = crowd.round_of(200, PATIENCE)?;
    ensure!(round.answered == 200, "{round:?}");
    Ok(())
}

#[test]
fn damaged_flow_memory_is_refused_with_a_reason_and_lbd_serves() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &plan())?;
    let file = director::flow_memory(scene.lab.dir());
    type Damage = (&'static str, fn(&fs::File) -> std::io::Result<()>);
    let damages: [Damage; 4] = [
        ("its header is damaged", |file| file.write_all_at(b"9", 80)),
        ("its header is damaged", |file| file.write_all_at(&[9], (2 << 20) + 13)),
        ("its layout is version 1819043144", |file| file.write_all_at(b"Hell", (2 << 20) + 8)),
        ("it has holes", |file| file.set_len(1 << 40)),
    ];
    for (reason, damage) in damages {
        scene.director.kill()?;
        damage(&OpenOptions::new().write(true).open(&file)?)?;
        scene.director = Director::start(&scene.lab, &plan())?;
        let log = scene.director.log();
        ensure!(
            log.lines().any(|line| line.contains("is not carried over") && line.contains(reason)),
            "{log}"
        );
        ensure!(scene.who_serves(VIP, 3)? == ["s1", "s2", "s3"]);
    }
    Ok(())
}

#[test]
fn without_flow_memory_it_starts_cold_and_leaves_nothing() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &plan())?;
    let file = director::flow_memory(scene.lab.dir());
    let mut held = KeptOpen::connect(scene.lab.client(), SocketAddr::new(VIP.into(), 80))?;
    held.get("/")?;
    scene.director.kill()?;
    fs::remove_file(&file)?;
    scene.director = Director::start(&scene.lab, &plan())?;
    ensure!(!scene.director.log().contains("carried over"), "{}", scene.director.log());
    held.set_patience(Duration::from_millis(500))?;
    ensure!(held.get("/").is_err(), "nobody knows this connection");
    scene.director.stop()?;
    ensure!(file.exists());
    ensure!(director::forget(&scene.lab)?.status.success());
    scene.director = Director::start(&scene.lab, &LbdPlan { flow_memory: Some("none"), ..plan() })?;
    ensure!(scene.who_serves(VIP, 3)? == ["s1", "s2", "s3"]);
    ensure!(!file.exists());
    scene.director.stop()?;
    ensure!(twins(&scene.lab)?.is_empty(), "{:?}", twins(&scene.lab)?);
    Ok(())
}

/// The names of the TAPs in the director's namespace.
fn twins(lab: &Lab) -> Result<Vec<String>> {
    let taps = lab.director().ip("tuntap show")?;
    Ok(taps.lines().filter_map(|line| line.split(':').next()).map(str::to_owned).collect())
}

#[test]
fn twins_stay_with_what_the_operator_put_there_until_they_are_forgotten() -> Result<()> {
    let mut scene = Scene::up(&Plan::default(), &plan())?;
    let ns = scene.lab.director().clone();
    ns.ip("addr add 192.0.2.77/32 dev wan")?;
    ns.ip("route add 203.0.113.0/24 via 10.0.0.12 dev lan")?;
    ns.ip("neigh add 10.0.0.222 lladdr 02:00:00:00:00:22 dev lan nud permanent")?;
    let index = || ns.ip("-o link show dev wan").map(|line| line.split(':').next().map(str::to_owned));
    let before = index()?;
    for ending in ["kill", "stop"] {
        match ending {
            "kill" => scene.director.kill()?,
            _ => drop(scene.director.stop()?),
        }
        ensure!(ns.ip("addr show dev wan")?.contains("192.0.2.10/32"), "after {ending}");
        scene.director = Director::start(&scene.lab, &plan())?;
        ensure!(index()? == before, "it is another interface");
        ensure!(ns.ip("addr show dev wan")?.contains("192.0.2.77/32"));
        ensure!(ns.ip("route show")?.contains("203.0.113.0/24 via 10.0.0.12 dev lan"));
        ensure!(ns.ip("neigh show dev lan")?.contains("10.0.0.222 lladdr 02:00:00:00:00:22 PERMANENT"));
        ensure!(scene.who_serves(VIP, 3)? == ["s1", "s2", "s3"]);
    }
    let refused = director::forget(&scene.lab)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("another lbd uses it"), "{said}");
    scene.director.stop()?;
    ensure!(twins(&scene.lab)? == ["wan", "lan"] || twins(&scene.lab)? == ["lan", "wan"]);
    ensure!(director::forget(&scene.lab)?.status.success());
    ensure!(twins(&scene.lab)?.is_empty());
    ensure!(!director::flow_memory(scene.lab.dir()).exists());
    Ok(())
}

#[test]
fn a_twin_without_a_port_goes_and_an_interface_of_somebody_else_is_left_alone() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &plan())?;
    scene.director.kill()?;
    let renamed =
        plan().toml(&director::socket(scene.lab.dir())).replace("name = \"lan\"", "name = \"inside\"");
    let mut next = Director::spawn_on(&scene.lab, &renamed, "renamed")?;
    next.until_ready()?;
    ensure!(next.log().contains("twin lan is removed"), "{}", next.log());
    ensure!(!twins(&scene.lab)?.contains(&"lan".to_owned()));
    next.kill()?;
    let ns = scene.lab.director();
    ns.ip("tuntap add dev lan mode tap")?;
    let mut refused = Director::spawn(&scene.lab, &plan(), "foreign")?;
    let status = refused.process().wait(PATIENCE)?;
    ensure!(status.code() == Some(1) && refused.log().contains("lan is there already"), "{}", refused.log());
    ensure!(twins(&scene.lab)?.contains(&"lan".to_owned()));
    Ok(())
}
