//! Goal: packets of NFLOG rules are in a pcapng file while they come, and what a traced packet meets is in lbd's log.
//! Method: a real director with both rules, one client that gets a page, the file and the log.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::topology::{CLIENT, VIP};
use lab::{LbdPlan, Plan, Scene, client};

/// Of the virtual service.
const PORT: u16 = 80;

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn packets_are_kept_in_a_file_and_traced_in_the_log() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = format!("[nflog]\ndirectory = {:?}\n", directory.path());
    let services = LbdPlan::usual_services(3, "rr") + &config;
    let scene = Scene::up(&Plan::default(), &LbdPlan { services, ..LbdPlan::default() })?;
    let iptables = |words: &str| -> Result<()> {
        let words: Vec<&str> = ["iptables"].into_iter().chain(words.split(' ')).collect();
        let output = scene.director.lbctl(&words)?.output()?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    iptables(&format!("-t raw -A PREROUTING -p tcp --dport {PORT} -j TRACE"))?;
    iptables(&format!("-A INPUT -p tcp --dport {PORT} -j NFLOG --nflog-group 5 --nflog-prefix web"))?;
    client::curl(scene.lab.client(), &client::url(VIP.into(), PORT, "/"))?;

    let file = directory.path().join("nflog-5.pcapng");
    let wanted = ["\"web\" INPUT IN=wan OUT=", "GET / HTTP/1.1"];
    let traced = [
        "TRACE: raw:PREROUTING:policy:2 IN=wan OUT= MAC=".to_owned(),
        "TRACE: filter:INPUT:rule:1 IN=wan OUT= MAC=".to_owned(),
        format!("SRC={CLIENT} DST={VIP} "),
    ];
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let kept = fs::read(&file).unwrap_or_default();
        let log = scene.director.log();
        if wanted.iter().all(|part| contains(&kept, part)) && traced.iter().all(|part| log.contains(part)) {
            ensure!(kept.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]), "a section begins the file");
            return Ok(());
        }
        ensure!(Instant::now() < until, "{} bytes kept, logged:\n{log}", kept.len());
        std::thread::sleep(Duration::from_millis(50));
    }
}
