//! Goal: nothing that comes from outside stops `lbd`.
//! Method: seeded random bytes, on the wire and on the API's socket, while a client goes on asking.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use lab::topology::{VIP, VIP_V6};
use lab::wire::Tap;
use lab::{LbdPlan, PATIENCE, Plan, Scene, until};

const FRAMES: u32 = 20_000;

/// splitmix64: the same bytes at each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A frame to the director: from pure noise to a header that is right as far as the VIP.
fn frame(noise: &mut Noise, director: [u8; 6]) -> Vec<u8> {
    let length = 14 + (noise.next() % 300) as usize;
    let mut frame = noise.bytes(length);
    frame[..6].copy_from_slice(&director);
    frame[6] &= 0xfe;
    let (ethertype, first, destination, vip): (u16, u8, usize, Vec<u8>) = match noise.next() % 8 {
        0 => return frame,
        1..=4 => (0x0800, 0x45, 16, VIP.octets().to_vec()),
        _ => (0x86dd, 0x60, 24, VIP_V6.octets().to_vec()),
    };
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
    let is_wrong_version = noise.next().is_multiple_of(4);
    if let Some(version) = frame.get_mut(14)
        && !is_wrong_version
    {
        *version = first;
    }
    if let Some(field) = frame.get_mut(14 + destination..14 + destination + vip.len()) {
        field.copy_from_slice(&vip);
    }
    frame
}

#[test]
fn random_frames_are_counted_by_reason_and_clients_are_served_on() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    scene.who_serves(VIP, 3)?;
    let wire = Tap::open(scene.lab.client(), "eth0")?;
    let director = scene.lab.director().mac("wan")?;
    let before = scene.director.metrics()?.sum("lb_drops_total", &[]);
    let mut noise = Noise(0x5EED);
    for number in 0..FRAMES {
        wire.send(&frame(&mut noise, director))?;
        if number % 5000 == 0 {
            assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"], "after {number} frames");
        }
    }
    until("drops in lb_drops_total", PATIENCE, || {
        let drops = scene.director.metrics().ok()?.sum("lb_drops_total", &[]) - before;
        // About two in three frames end in parsing. What a receiver without a CPU missed on the link is made up for.
        let is_enough = drops > f64::from(FRAMES) / 4.0;
        (0..if is_enough { 0 } else { 500 })
            .try_for_each(|_| wire.send(&frame(&mut noise, director)))
            .ok()?;
        is_enough.then_some(())
    })?;
    assert_eq!(scene.who_serves(VIP, 3)?, ["s1", "s2", "s3"]);
    assert_eq!(scene.who_serves(VIP_V6, 3)?, ["s1", "s2", "s3"]);
    let (status, log) = scene.director.stop()?;
    assert!(status.success(), "{status}: {log}");
    Ok(())
}

#[test]
fn random_bytes_on_the_api_are_refused_and_it_answers_on() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let before = scene.director.ipvsadm("-S -n")?;
    let mut noise = Noise(0xAB1);
    for _ in 0..50 {
        let mut stream = UnixStream::connect(scene.director.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let bytes = noise.bytes(200);
        // It may close the connection before it has read them all.
        let _refused_early =
            stream.write_all(&bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        let _closed = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(scene.director.ipvsadm("-S -n")?, before);
    Ok(())
}

#[test]
fn random_json_on_the_api_is_a_400_that_says_why() -> Result<()> {
    let scene = Scene::up(&Plan::default(), &LbdPlan::default())?;
    let before = scene.director.ipvsadm("-S -n")?;
    let body = "{\"address\": 7, \"colour\": [";
    let mut stream = UnixStream::connect(scene.director.socket())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST /v1/commands HTTP/1.1\r\nHost: lb\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let (_, reason) = answer.split_once("\r\n\r\n").context("no body")?;
    assert!(!reason.is_empty(), "no reason is given");
    assert_eq!(scene.director.ipvsadm("-S -n")?, before);
    Ok(())
}
