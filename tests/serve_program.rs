//! `pomona serve` as a process: its link, its port, hostile bodies, and its end.
#![cfg(unix)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::common::{model_path, png, program::*};

/// A server, which is stopped at the end.
struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

fn command(output: &Path, options: &[&str]) -> Command {
    let mut command = pomona();
    command.arg("serve").arg(output).arg("--model").arg(model_path("tiny")).args(options);
    command
}

impl Server {
    fn start(output: &Path) -> Server {
        let mut process = command(output, &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().trim_end_matches('/').parse().expect(&line);
        assert!(line.contains("http://127.0.0.1:"), "{line}");
        Server { process, port }
    }

    /// Sends a request as it is, and returns all of the answer.
    fn ask(&self, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let head = head.replace('\n', "\r\n").replace("HOST", &format!("127.0.0.1:{}", self.port));
        stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn predict(&self, body: &[u8]) -> String {
        let length = body.len();
        let head = format!("POST /api/predict HTTP/1.1\nhost: HOST\ncontent-type: image/png\ncontent-length: {length}");
        self.ask(&head, body)
    }
}

fn data_set() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (images, output) = (dir.path().join("images"), dir.path().join("results"));
    write_images(&images, 150);
    json(&mut run(&images, &output, &[]));
    (dir, output)
}

#[test]
fn a_body_of_50_mb_is_answered_by_name_and_the_process_lives() {
    let (_dir, output) = data_set();
    let server = Server::start(&output);
    for _ in 0..3 {
        let answer = server.predict(&vec![0xff; 50 << 20]);
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("\"error\":\"Input.Invalid\""), "{answer}");
        let answer = server.predict(&png(3));
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"label\":\"label 0\""), "{answer}");
    }
    // A client that promises more than it sends, and one that speaks another protocol.
    drop(
        TcpStream::connect(("127.0.0.1", server.port))
            .unwrap()
            .write_all(b"POST /api/predict HTTP/1.1\r\ncontent-length: 9999\r\n\r\nx"),
    );
    assert!(!server.ask("\u{1}\u{2}nonsense", b"").starts_with("HTTP/1.1 200"));
    let rebound = server.ask("GET /api HTTP/1.1\nhost: evil.example", b"");
    assert!(rebound.starts_with("HTTP/1.1 403 "), "{rebound}");
    assert!(server.ask("GET /../../etc/passwd HTTP/1.1\nhost: HOST", b"").starts_with("HTTP/1.1 404 "));
    assert!(server.ask("GET /api HTTP/1.1\nhost: HOST", b"").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_signal_ends_the_server_also_while_a_connection_is_open() {
    let (_dir, output) = data_set();
    for signal in ["INT", "TERM"] {
        let mut server = Server::start(&output);
        let mut open = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        open.write_all(b"POST /api/predict HTTP/1.1\r\n").unwrap();
        let pid = server.process.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        assert_eq!(server.process.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn what_cannot_be_served_is_an_error_with_advice() {
    let (dir, output) = data_set();
    let server = Server::start(&output);
    let port = server.port.to_string();
    let taken = fails(&mut command(&output, &["--port", &port]), 2, "another program uses this port");
    assert!(taken.contains(&format!("port: {port}")), "{taken}");
    fails(&mut command(&output, &["--version", "7"]), 1, "Output.NoVersion");
    fails(&mut command(&dir.path().join("none"), &[]), 1, "Output.NoVersion");
}
