//! The walls between the rooms of `src/`, read from the code: which room may import which.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A room imports only rooms before it in this list.
const ROOMS: [&str; 21] = [
    "error",
    "ids",
    "store",
    "image",
    "orb",
    "model",
    "pca",
    "classify",
    "search",
    "dataset",
    "archive",
    "inventory",
    "cost",
    "aws",
    "stages",
    "report",
    "pipeline",
    "versions",
    "serve",
    "demo",
    "cli",
];
/// Lines of a file, and of a function outside of the kernels.
const FILE_LINES: usize = 450;
const FUNCTION_LINES: usize = 60;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder of the repository.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The part of a source file that is code: without comments, strings and what stands behind `#[cfg(test)]`.
fn code(source: &str) -> String {
    let mut code = String::new();
    let mut chars = source.split("#[cfg(test)]\nmod ").next().unwrap_or_default().chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => drop(chars.next()),
            // The letter '"', which opens no string.
            '\'' if !quoted && chars.peek() == Some(&'"') => drop((chars.next(), chars.next())),
            '"' => quoted = !quoted,
            '/' if !quoted && chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            _ if quoted => {}
            _ => code.push(c),
        }
    }
    code
}

/// The first names behind `crate::` or another name.
fn imports(code: &str, crate_name: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(&format!("{crate_name}::")) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + crate_name.len() + 2..];
        match rest.strip_prefix('{') {
            None => names.extend(first_name(rest)),
            Some(group) => names.extend(members(group).iter().filter_map(|member| first_name(member))),
        }
    }
    names
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The members of a braced import, up to its closing brace.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut members, mut member) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => members.push(std::mem::take(&mut member)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                member.push(c);
            }
        }
    }
    members.push(member);
    members
}

/// What the front page re-exports from `error`.
fn room_of_name(name: &str) -> Option<&'static str> {
    match name {
        "Error" | "ErrorKind" | "Result" => Some("error"),
        _ => ROOMS.iter().copied().find(|room| *room == name),
    }
}

/// Arrows that point from a room to itself or down the list are fine; the others are returned.
fn upward_arrows(files: &[(String, String)]) -> Vec<String> {
    let rank = |room: &str| ROOMS.iter().position(|r| *r == room);
    let mut upward = Vec::new();
    for (path, source) in files {
        let room = path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
        if ["lib", "main"].contains(&room) {
            continue;
        }
        let from = rank(room).unwrap_or_else(|| panic!("{path} is in no room of the list"));
        for name in imports(&code(source), "crate") {
            let Some(to) = room_of_name(&name) else { continue };
            if rank(to) > Some(from) {
                upward.push(format!("{path}: {room} imports {to}"));
            }
        }
    }
    upward
}

fn sources() -> Vec<(String, String)> {
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    files("src").into_iter().map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn a_room_imports_only_rooms_above_it() {
    assert_eq!(upward_arrows(&sources()), Vec::<String>::new());
}

#[test]
fn a_planted_upward_arrow_is_found() {
    for planted in [
        "use crate::pipeline;",
        "use crate::{\n    Error,\n    stages::{self, Plan},\n};",
        "fn f() { crate::report::text::count(1); }",
    ] {
        let mut files = sources();
        let store = files.iter_mut().find(|(path, _)| path == "src/store/memory.rs").unwrap();
        store.1.insert_str(0, &format!("{planted}\n"));
        assert_eq!(upward_arrows(&files).len(), 1, "{planted}");
    }
    let harmless = "//! See [`crate::pipeline`].\nconst S: &str = \"crate::pipeline\";";
    assert_eq!(upward_arrows(&[("src/store/x.rs".to_owned(), harmless.to_owned())]), Vec::<String>::new());
}

/// Modules of one room may be used by each other in one direction only.
#[test]
fn no_two_files_of_the_stages_import_each_other() {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, source) in sources() {
        let Some(name) = path.strip_prefix("src/stages/").and_then(|name| name.strip_suffix(".rs")) else { continue };
        if name != "mod" {
            let mut names = imports(&code(&source), "super");
            names.remove(name);
            arrows.insert(name.to_owned(), names);
        }
    }
    for (from, names) in &arrows {
        for to in names {
            assert!(!arrows.get(to).is_some_and(|back| back.contains(from)), "{from} and {to} import each other");
        }
    }
}

#[test]
fn the_ground_floor_is_three_files() {
    let mut files: Vec<_> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files, ["error.rs", "ids.rs", "lib.rs", "main.rs"]);
}

/// Functions of a file and their lengths in lines. rustfmt puts the closing brace below the first letter of the function.
fn functions(source: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let is_function = text.split_whitespace().take(5).any(|word| word == "fn") && !text.starts_with("//");
        if !is_function || text.ends_with(';') || text.ends_with('}') {
            continue;
        }
        let indent = line.len() - text.len();
        let closing = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|line| **line == closing).map_or(0, |end| end + 1);
        let name = text.split("fn ").nth(1).and_then(first_name).unwrap_or_default();
        found.push((name, length));
    }
    found
}

#[test]
fn functions_and_files_fit_a_screen() {
    let mut too_long = Vec::new();
    for folder in ["src", "functions", "kernels", "python", "tests", "examples"] {
        for path in files(folder) {
            let source = fs::read_to_string(&path).unwrap();
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            let lines = source.lines().count();
            if lines > FILE_LINES {
                too_long.push(format!("{name} has {lines} lines"));
            }
            if folder != "kernels" {
                let long = functions(&source).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES);
                too_long.extend(long.map(|(function, lines)| format!("{name}: {function} has {lines} lines")));
            }
        }
    }
    assert_eq!(too_long, Vec::<String>::new());
}

/// `unsafe` stands in the kernels, and in one call at the start of the program.
#[test]
fn unsafe_code_is_in_one_crate() {
    let unsafe_files: Vec<_> =
        sources().into_iter().filter(|(_, source)| code(source).contains("unsafe {")).map(|(path, _)| path).collect();
    assert_eq!(unsafe_files, ["src/main.rs"]);
}
