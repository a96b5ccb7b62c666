//! Goal: a trace and an explanation say alike why a client's packets are dropped, and an explanation changes nothing.
//! Method: a real director with a rule that drops what is for the virtual service, a client that tries to connect, and `lbctl`.

use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology::{CLIENT, VIP};
use lab::{LbdPlan, PATIENCE, Plan, Scene, until};

/// Of the virtual service.
const PORT: u16 = 80;

#[test]
fn a_trace_and_an_explanation_say_why_a_packet_was_dropped() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    scene.director.run_lbctl(&format!("iptables -A INPUT -p tcp --dport {PORT} -j DROP"))?;
    let words = format!("trace --dropped -c 1 --time 60 -p tcp -d {VIP}/32 --dport {PORT}");
    let mut trace = scene.director.lbctl(&words.split(' ').collect::<Vec<_>>())?;
    let mut trace = trace.stdout(Stdio::piped()).spawn()?;
    let service = SocketAddr::new(VIP.into(), PORT);
    let mut was_dropped = true;
    while trace.try_wait()?.is_none() {
        let patience = Duration::from_millis(100);
        was_dropped &=
            scene.lab.client().enter(|| TcpStream::connect_timeout(&service, patience).is_err())?;
    }
    // Asked when the trace has ended, which nobody else would end.
    ensure!(was_dropped, "a rule drops it");
    let traced = String::from_utf8(trace.wait_with_output()?.stdout)?;

    let rules = || scene.director.run_lbctl("iptables -L INPUT -v -n -x");
    let before = rules()?;
    let probe = format!("explain -i wan -s {CLIENT} --sport 4000 -d {VIP} --dport {PORT}");
    let explained = scene.director.run_lbctl(&probe)?;
    ensure!(rules()? == before, "an explanation is not counted");
    for said in [&traced, &explained] {
        let why = format!(
            "INPUT 1: -p tcp -m tcp --dport {PORT} -j DROP\n             → drop\ndropped at INPUT: rule\n"
        );
        ensure!(said.contains(&why), "{said}");
    }

    scene.director.run_lbctl("iptables -F INPUT")?;
    // A neighbour may still be asked for.
    let mut explained = String::new();
    let sent = until("the road to a real server", PATIENCE, || {
        explained = scene.director.run_lbctl(&probe).ok()?;
        explained.lines().last()?.starts_with("sent by lan to ").then_some(())
    });
    sent.with_context(|| explained.clone())?;
    let of_service = format!("virtual service tcp/{VIP}:{PORT}, scheduler ");
    ensure!(explained.contains(&of_service), "{explained}");
    Ok(())
}
