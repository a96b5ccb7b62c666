//! The demo's story: a lab comes up, clients fetch pages through the virtual service, a table shows who served what.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cleanup::{self, Tag};
use crate::client::{self, Load, Reuse};
use crate::director::{Director, Driver, HTTP, LbdPlan, program};
use crate::kernel_director::KernelDirector;
use crate::server::Nginx;
use crate::topology::{Lab, Plan, VIP};
use crate::wait;

/// Pages fetched one by one before the load.
const PAGES: usize = 12;
/// Connections that wrk keeps open.
const CONNECTIONS: u16 = 60;

/// What directs the demo's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    Lbd(Driver),
    Nft,
}

/// Runs the demo for `seconds` of load; with `keep`, leaves it running at the end.
///
/// # Errors
/// Whatever kept a page from being served, or a real server from serving any; the lab is gone by then.
pub fn run(through: Through, keep: bool, seconds: u16) -> Result<()> {
    let tag = if keep { Tag::demo() } else { Tag::of_this_process() };
    if keep && tag.exists() {
        bail!("one is running already; `make demo-stop` ends it");
    }
    let lab = step("demo: a lab of namespaces: client, director, switch, s1, s2, s3", || {
        Lab::with(&Plan { tag, ..Plan::default() })
    })?;
    let servers = step("demo: three nginx real servers", || Nginx::start_all(&lab))?;
    let director = match through {
        Through::Lbd(driver) => Some(step("demo: lbd in the director's namespace", || {
            Director::start(&lab, &LbdPlan { driver, ..LbdPlan::default() })
        })?),
        Through::Nft => {
            step("demo: the kernel's NAT in the director's namespace", || KernelDirector::start(&lab))?;
            None
        }
    };

    let url = client::url(VIP.into(), 80, "/");
    let answers = step(&format!("demo: {PAGES} pages with curl, {url} from the client"), || {
        (0..PAGES).map(|_| client::curl(lab.client(), &url)).collect::<Result<Vec<_>>>()
    })?;
    println!("      answered by: {}", answers.concat().replace('\n', " "));
    let load = step(&format!("demo: {seconds} s of load with wrk, {CONNECTIONS} connections"), || {
        client::wrk(lab.client(), &url, CONNECTIONS, seconds, Reuse::KeptOpen)
    })?;

    let counts = requests_served(&servers)?;
    println!("\n{}", table(&counts));
    println!("{}", load_line(&load));
    if let Some(director) = &director {
        println!("\n$ lbctl ipvsadm -L -n --stats\n{}", director.ipvsadm("-L -n --stats")?.trim_end());
        print_worker(director)?;
    }
    if let Some((role, _)) = counts.iter().find(|(_, requests)| *requests == 0) {
        bail!("{role} served nothing");
    }
    if !load.errors.is_empty() {
        bail!("wrk saw errors: {}", load.errors);
    }

    if keep {
        print_commands(&lab, director.as_ref())?;
        servers.into_iter().for_each(Nginx::leave_running);
        if let Some(director) = director {
            director.leave_running();
        }
        lab.leave_behind();
        return Ok(());
    }
    if let Some(director) = director {
        let (status, log) = step("demo: stopping lbd with SIGTERM", || director.stop())?;
        if !status.success() {
            bail!("lbd ended with {status}; it said:\n{log}");
        }
    }
    let tag = lab.tag().clone();
    step("demo: removing the lab", || {
        drop(servers);
        drop(lab);
        if tag.exists() { bail!("something of lab {tag} is still there") } else { Ok(()) }
    })
}

/// Ends what `run` left with `keep`, and sweeps labs whose makers are gone.
///
/// # Errors
/// When something of it stays.
pub fn stop() -> Result<()> {
    cleanup::sweep();
    let tag = Tag::demo();
    if !tag.exists() {
        println!("demo: none is running");
        return Ok(());
    }
    step("demo: ending the demo that was left running", || {
        cleanup::remove(&tag);
        if tag.exists() { bail!("something of lab {tag} is still there") } else { Ok(()) }
    })
}

/// Says what is being done before it is done, and how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{what} … ");
    std::io::stdout().flush()?;
    let start = Instant::now();
    match work() {
        Ok(value) => {
            println!("{:.1} s", start.elapsed().as_secs_f32());
            Ok(value)
        }
        Err(error) => {
            println!("failed");
            Err(error)
        }
    }
}

/// How many requests each real server's own log holds, once nginx has written all of them.
fn requests_served(servers: &[Nginx]) -> Result<Vec<(String, usize)>> {
    let count = || {
        servers
            .iter()
            .map(|nginx| Ok((nginx.role().to_owned(), nginx.clients_served()?.len())))
            .collect::<Result<Vec<_>>>()
    };
    let mut last = count()?;
    wait::until("end of nginx's logs", wait::PATIENCE, || {
        // Longer than nginx holds lines back.
        std::thread::sleep(Duration::from_millis(150));
        let now = count().ok()?;
        let is_settled = now == last && now.iter().map(|(_, requests)| requests).sum::<usize>() >= PAGES;
        last = now;
        is_settled.then_some(())
    })?;
    Ok(last)
}

fn table(counts: &[(String, usize)]) -> String {
    let total: usize = counts.iter().map(|(_, requests)| requests).sum();
    let mut text = format!("{:<12} {:>20} {:>8}\n", "real server", "requests (its log)", "share");
    for (role, requests) in counts {
        let share = 100.0 * *requests as f64 / total.max(1) as f64;
        text.push_str(&format!("{role:<12} {requests:>20} {share:>7.1}%\n"));
    }
    text.push_str(&format!("{:<12} {total:>20}\n", "all"));
    text
}

fn load_line(load: &Load) -> String {
    format!(
        "wrk: {:.0} requests/s, latency {:.2} ms median, {:.2} ms at 99 %, errors: {}",
        load.requests_per_second,
        load.p50_ms,
        load.p99_ms,
        if load.errors.is_empty() { "none" } else { &load.errors }
    )
}

/// What the worker and the ports counted, as `/metrics` has it; zeros are left out.
fn print_worker(director: &Director) -> Result<()> {
    let metrics = director.metrics()?;
    println!("\n$ curl http://{HTTP}/metrics   (in the director's namespace; a selection)");
    for family in ["lb_worker_", "lb_port_", "lb_conntrack_", "lb_drops_total"] {
        for (series, value) in metrics.with_prefix(family) {
            if value != 0.0 && !series.contains("_bucket") {
                println!("{series} {value}");
            }
        }
    }
    Ok(())
}

fn print_commands(lab: &Lab, director: Option<&Director>) -> Result<()> {
    println!("\nIt is left running. To try, as root:\n");
    println!("  ip netns exec {} curl http://{VIP}/", lab.client().name());
    println!("  ip netns exec {} ping -c 3 {VIP}", lab.client().name());
    println!("  ip netns exec {} curl http://[{}]/", lab.client().name(), crate::topology::VIP_V6);
    if let Some(director) = director {
        let lbctl = program("lbctl")?;
        let socket = director.socket();
        println!("  export LB_SOCKET={}", socket.to_str().context("the socket's path is not UTF-8")?);
        for arguments in ["-L -n", "-L -n -c", "-L -n --stats"] {
            println!("  {} ipvsadm {arguments}", lbctl.display());
        }
        println!("  {} ipvsadm -e -t {VIP}:80 -r 10.0.0.11:8080 -m -w 0", lbctl.display());
        println!("  ip netns exec {} curl http://{HTTP}/metrics", lab.director().name());
        println!("  ip netns exec {} ip addr show wan", lab.director().name());
        println!("  less {}", lab.dir().join("lbd.log").display());
    }
    println!("\n`make demo-stop` ends it.");
    Ok(())
}
