//! What the program says if AWS cannot be used: no or wrong credentials, no access, no bucket, another region, no network.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::common::program::*;

/// A server that answers every request with this status line and body. It ends with the process.
fn refusing(status: &'static str, body: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = Vec::new();
            let mut buffer = [0; 4_096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(1..) => request.extend_from_slice(&buffer),
                    _ => break,
                }
            }
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    address
}

/// The program as on a machine on which AWS was never set up.
fn without_aws(home: &Path) -> Command {
    let mut command = pomona();
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", home).env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

fn results(home: &tempfile::TempDir) -> PathBuf {
    home.path().join("results")
}

fn with_keys(home: &Path, server: SocketAddr) -> Command {
    let mut command = without_aws(home);
    command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
    command.env("AWS_ENDPOINT_URL", format!("http://{server}"));
    command
}

/// The lines of an error: what happened, and what to do. Neither has the text of a data structure.
fn two_lines(command: &mut Command, name: &str) -> String {
    let text = fails(command, 1, &format!("error[{name}]"));
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("note:")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].len() < 260, "{text}");
    for debug in ["{", "Some(", "None", "Failure(", "ErrorMetadata", "\\n", "kind:"] {
        assert!(!text.contains(debug), "{debug} is in {text}");
    }
    text
}

#[test]
fn missing_credentials_are_one_line_and_three_ways_to_give_them() {
    let home = tempfile::tempdir().unwrap();
    let text = two_lines(
        without_aws(home.path()).args(["run", "s3://fruit/photos"]).arg(results(&home)),
        "Credentials.Missing",
    );
    assert!(text.starts_with("error[Credentials.Missing]: no AWS credentials were found"), "{text}");
    for way in ["AWS_ACCESS_KEY_ID", "aws configure", "aws sso login"] {
        assert!(text.contains(way), "{text}");
    }
    let text = two_lines(without_aws(home.path()).args(["status", "pomona"]), "Credentials.Missing");
    assert!(text.contains("states:ListStateMachines"), "{text}");
    let text = two_lines(
        without_aws(home.path()).env("AWS_PROFILE", "nobody").args(["log", "s3://fruit/results"]),
        "Credentials.Missing",
    );
    assert!(text.contains("AWS_PROFILE: nobody"), "{text}");
}

#[test]
fn each_refusal_of_s3_has_a_name_and_advice() {
    let home = tempfile::tempdir().unwrap();
    let location = "s3://fruit/photos/";
    for (status, code, name, advice) in [
        ("400 Bad Request", "ExpiredToken", "Credentials.Expired", "aws sso login"),
        ("403 Forbidden", "InvalidAccessKeyId", "Credentials.Invalid", "AWS_ACCESS_KEY_ID"),
        ("403 Forbidden", "AccessDenied", "Store.Denied", "policies"),
        ("404 Not Found", "NoSuchBucket", "Store.NoBucket", "spelling of the bucket"),
        ("301 Moved Permanently", "PermanentRedirect", "Store.WrongRegion", "AWS_REGION"),
    ] {
        let body = format!("<Error><Code>{code}</Code><Message>It says why.</Message></Error>");
        let server = refusing(status, body);
        let text = two_lines(with_keys(home.path(), server).args(["run", location]).arg(results(&home)), name);
        assert!(text.contains("fruit") && text.contains("It says why.") && text.contains(advice), "{text}");
    }
}

#[test]
fn each_refusal_of_step_functions_has_a_name_and_advice() {
    let home = tempfile::tempdir().unwrap();
    for (code, name) in [
        ("ExpiredTokenException", "Credentials.Expired"),
        ("UnrecognizedClientException", "Credentials.Invalid"),
        ("AccessDeniedException", "Execution.Denied"),
    ] {
        let body = format!(r#"{{"__type": "com.amazonaws#{code}", "message": "It says why."}}"#);
        let server = refusing("400 Bad Request", body);
        let text = fails(with_keys(home.path(), server).args(["status", "pomona"]), 1, &format!("error[{name}]"));
        assert!(text.contains("It says why.") && text.contains("states:ListStateMachines"), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}

#[test]
fn no_network_names_the_region_and_the_endpoint() {
    let home = tempfile::tempdir().unwrap();
    // Nothing listens at this address any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = with_keys(home.path(), address);
    command.env("AWS_REGION", "eu-west-3").args(["log", "s3://fruit/results"]);
    let text = two_lines(&mut command, "Store.Unavailable");
    assert!(text.contains("region: eu-west-3") && text.contains("AWS_ENDPOINT_URL"), "{text}");
}
