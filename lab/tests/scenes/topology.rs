//! Goal: what the lab says about itself is true, so that a failing test of `lbd` is about `lbd`.
//! Method: the kernel stands in the director's place.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lab::client::Reuse;
use lab::server::{self, ECHO_PORT, Nginx, UdpEcho};
use lab::topology::{CLIENT, DIRECTOR, DIRECTOR_V6, GATEWAY, VIP, VIP_V6};
use lab::wire::Tap;
use lab::{KernelDirector, Lab, PATIENCE, Plan, Tag, cleanup, client, until};

#[test]
fn requests_are_spread_over_the_real_servers_and_keep_the_clients_address() -> Result<()> {
    let lab = Lab::new()?;
    let _kernel = KernelDirector::start(&lab)?;
    let servers = Nginx::start_all(&lab)?;
    for vip in [IpAddr::V4(VIP), IpAddr::V6(VIP_V6)] {
        let mut answers = (0..3)
            .map(|_| client::curl(lab.client(), &client::url(vip, 80, "/")))
            .collect::<Result<Vec<_>>>()?;
        answers.sort();
        assert_eq!(answers, ["s1\n", "s2\n", "s3\n"], "over {vip}");
    }
    for nginx in &servers {
        let served = until("two lines in the access log", PATIENCE, || {
            nginx.clients_served().ok().filter(|clients| clients.len() == 2)
        })?;
        assert_eq!(served, [CLIENT.to_string(), "2001:db8::100".to_owned()], "{}", nginx.role());
    }
    Ok(())
}

#[test]
fn datagrams_are_echoed_by_the_real_servers() -> Result<()> {
    let lab = Lab::new()?;
    let _kernel = KernelDirector::start(&lab)?;
    let _echoes = UdpEcho::start_all(&lab)?;
    for vip in [IpAddr::V4(VIP), IpAddr::V6(VIP_V6)] {
        let answer = client::ask(lab.client(), SocketAddr::new(vip, ECHO_PORT), b"hello")?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(["s1 hello", "s2 hello", "s3 hello"].contains(&answer.as_str()), "{answer} over {vip}");
    }
    Ok(())
}

#[test]
fn a_large_download_passes_the_access_router_with_the_smaller_mtu() -> Result<()> {
    let lab = Lab::with(&Plan { access_mtu: Some(1400), ..Plan::default() })?;
    let _kernel = KernelDirector::start(&lab)?;
    let content = server::serve_file(&lab, "large", 4)?;
    let _servers = Nginx::start_all(&lab)?;
    let copy = lab.dir().join("copy");
    let url = client::url(VIP.into(), 80, "/files/large");
    lab.client().run(60, "curl", &["-sSf", "-o", &copy.to_string_lossy(), &url])?;
    assert!(std::fs::read(copy)? == content, "the copy differs");
    let cached = lab.servers().iter().map(|s| s.ip("route show cache")).collect::<Result<String>>()?;
    assert!(cached.contains("mtu 1400"), "no server learnt the path's MTU: {cached}");
    Ok(())
}

#[test]
fn pings_reach_the_director_on_both_sides() -> Result<()> {
    let lab = Lab::new()?;
    let _kernel = KernelDirector::start(&lab)?;
    assert_eq!(client::ping(lab.client(), DIRECTOR.into(), 3, &[])?, 3);
    assert_eq!(client::ping(lab.client(), DIRECTOR_V6.into(), 3, &[])?, 3);
    assert_eq!(client::ping(&lab.servers()[2], GATEWAY.into(), 3, &[])?, 3);
    Ok(())
}

#[test]
fn load_is_measured_by_wrk() -> Result<()> {
    let lab = Lab::new()?;
    let _kernel = KernelDirector::start(&lab)?;
    let _servers = Nginx::start_all(&lab)?;
    let load = client::wrk(lab.client(), &client::url(VIP.into(), 80, "/"), 8, 1, Reuse::KeptOpen)?;
    assert_eq!(load.errors, "");
    assert!(load.requests_per_second > 0.0, "{load:?}");
    Ok(())
}

#[test]
fn frames_are_put_on_a_link_and_taken_from_it() -> Result<()> {
    let lab = Lab::new()?;
    let here = Tap::open(lab.client(), "eth0")?;
    let there = Tap::open(lab.director(), lab::topology::WAN_LINK)?;
    let mut frame = vec![0xff; 12];
    frame.extend_from_slice(&[0x88, 0xb5]);
    frame.extend_from_slice(&[0x5a; 46]);
    frame[6..12].copy_from_slice(&here.mac());
    here.send(&frame)?;
    let taken = there.receive("the frame", PATIENCE, |frame| frame[12..14] == [0x88, 0xb5])?;
    assert_eq!(taken, frame);
    Ok(())
}

#[test]
fn nothing_is_left_of_a_lab_that_was_dropped() -> Result<()> {
    let lab = Lab::new()?;
    let _servers = Nginx::start_all(&lab)?;
    let tag = lab.tag().clone();
    assert!(tag.exists());
    drop(lab);
    assert!(!tag.exists());
    Ok(())
}

#[test]
fn nothing_is_left_of_a_lab_whose_test_panicked() -> Result<()> {
    let tag = Tag::of_this_process();
    let plan = Plan { tag: tag.clone(), ..Plan::default() };
    let panicked = std::panic::catch_unwind(|| {
        let _lab = Lab::with(&plan).expect("the lab comes up");
        panic!("as a failed assertion does");
    });
    assert!(panicked.is_err());
    assert!(!tag.exists());
    Ok(())
}

#[test]
fn the_next_lab_sweeps_what_a_killed_one_left() -> Result<()> {
    // No process ever has this id.
    let dead = i32::MAX;
    let name = format!("lblab-{dead}x0-client");
    let made = std::process::Command::new("ip").args(["netns", "add", &name]).status()?;
    assert!(made.success());
    let swept = cleanup::sweep();
    assert!(swept.iter().any(|tag| tag.to_string() == format!("{dead}x0")), "{swept:?}");
    assert!(!std::path::Path::new("/run/netns").join(name).exists());
    Ok(())
}
