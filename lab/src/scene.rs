//! What most tests begin with: a lab, its real servers, and `lbd` ready in between.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::client;
use crate::director::{Director, LbdPlan};
use crate::server::{Nginx, UdpEcho};
use crate::topology::{Lab, Plan};

/// A lab with everything in it running. Its parts go down in the order of the fields.
#[derive(Debug)]
pub struct Scene {
    pub director: Director,
    pub nginx: Vec<Nginx>,
    pub echoes: Vec<UdpEcho>,
    pub lab: Lab,
}

impl Scene {
    /// Makes the lab, starts `lbd`, and nginx and UDP echo on every real server, and waits for all of them.
    ///
    /// # Errors
    /// What the first that fails says.
    pub fn up(plan: &Plan, lbd: &LbdPlan) -> Result<Scene> {
        let lab = Lab::with(plan)?;
        let mut director = Director::spawn(&lab, lbd, "lbd")?;
        let nginx = Nginx::start_all(&lab)?;
        let echoes = UdpEcho::start_all(&lab)?;
        director.until_serving(&lab, lbd)?;
        Ok(Scene { director, nginx, echoes, lab })
    }

    /// Who answers `count` pages fetched one by one, each over a connection of its own, sorted.
    ///
    /// # Errors
    /// The socket's.
    pub fn who_serves(&self, vip: impl Into<IpAddr>, count: usize) -> Result<Vec<String>> {
        let service = SocketAddr::new(vip.into(), 80);
        let mut answers = (0..count)
            .map(|_| Ok(client::fetch(self.lab.client(), service)?.trim().to_owned()))
            .collect::<Result<Vec<_>>>()?;
        answers.sort();
        Ok(answers)
    }

    /// Who answers `count` datagrams, each from a socket of its own, sorted.
    ///
    /// # Errors
    /// The socket's.
    pub fn who_echoes(&self, vip: impl Into<IpAddr>, count: usize) -> Result<Vec<String>> {
        let server = SocketAddr::new(vip.into(), crate::server::ECHO_PORT);
        let mut answers = (0..count)
            .map(|_| Ok(String::from_utf8_lossy(&client::ask(self.lab.client(), server, b"?")?).into_owned()))
            .collect::<Result<Vec<_>>>()?;
        answers.sort();
        Ok(answers)
    }
}
