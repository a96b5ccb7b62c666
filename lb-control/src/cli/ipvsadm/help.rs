//! `-h` and `-v`.

use std::io::{self, Write};

use super::options::{Opt, Row, TABLE, Takes};

/// Scripts look at this line to know what the command understands.
pub(super) fn version(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)")
}

pub(super) fn print(out: &mut dyn Write) -> io::Result<()> {
    version(out)?;
    writeln!(out, "This is lbctl speaking ipvsadm to lbd; the kernel's IPVS is not touched.\n")?;
    writeln!(out, "Usage:")?;
    for usage in [
        "-A|-E SERVICE [-s NAME]",
        "-D SERVICE",
        "-a|-e SERVICE -r HOST[:PORT] -m [-w NUMBER] [-x NUMBER] [-y NUMBER]",
        "-d SERVICE -r HOST[:PORT]",
        "-L [-n] [-c | --timeout | SERVICE] [--stats | --rate | --thresholds] [--exact] [--nosort]",
        "-Z [SERVICE]",
        "-C | -R | -S [-n]",
        "--set TCP TCPFIN UDP",
    ] {
        writeln!(out, "  ipvsadm {usage}")?;
    }
    writeln!(out, "SERVICE is -t HOST:PORT or -u HOST:PORT; [ADDRESS]:PORT for IPv6.\n\nCommands:")?;
    let first_option = TABLE.iter().position(|row| row.opt == Opt::TcpService).unwrap_or(TABLE.len());
    for (index, row) in TABLE.iter().enumerate() {
        if index == first_option {
            writeln!(out, "\nOptions:")?;
        }
        option(out, row)?;
    }
    Ok(())
}

fn option(out: &mut dyn Write, row: &Row) -> io::Result<()> {
    if row.help.is_empty() {
        return Ok(());
    }
    let short = row.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
    let argument = match row.takes {
        Takes::Nothing => String::new(),
        Takes::Argument => format!(" {}", row.argument),
        Takes::Optional => format!(" [{}]", row.argument),
    };
    writeln!(out, "  {short}{:<32} {}", format!("--{}{argument}", row.long), row.help)
}
