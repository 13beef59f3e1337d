//! The Markdown files of the repository: links lead somewhere, `docs/SUMMARY.md` lists each page once, the Rust code of each page
//! is compiled, and the runbook has every warning.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The address of the repository's files. A link that begins with it is checked as one to the file here.
const ADDRESS: &str = "https://github.com/rmcp-session-policy/rmcp-session-policy/blob/main/";
/// Pages of the book are made of these, so their links are those of a file in `docs/`.
const TEMPLATES: [&str; 3] = ["benches/report.md", "examples/clients/page.md", "examples/clients/over-restarts.md"];
/// Folders with files of others.
const FOREIGN: [&str; 3] = [".git", "node_modules", "target"];

#[test]
fn every_link_and_anchor_leads_somewhere() {
    let pages = Pages::read();
    let mut wrong = Vec::new();
    for (path, page) in &pages.0 {
        for link in &page.links {
            if let Err(why) = pages.look_up(path, &link.to) {
                wrong.push(format!("{path}:{}: {} {why}", link.line, link.to));
            }
        }
    }
    assert!(pages.0.values().map(|page| page.links.len()).sum::<usize>() > 100, "the pages were read");
    none(&wrong);
}

#[test]
fn the_summary_lists_every_page_of_the_book_once() {
    let pages = Pages::read();
    let mut left: BTreeSet<_> = pages.of_the_book().map(|(path, _)| path).collect();
    let mut wrong = Vec::new();
    for link in &pages.0["docs/SUMMARY.md"].links {
        // A link to nothing is a chapter that is not written yet.
        if !link.to.is_empty() && !left.remove(&*format!("docs/{}", link.to)) {
            wrong.push(format!("docs/SUMMARY.md:{}: {} is no page, or is there twice", link.line, link.to));
        }
    }
    wrong.extend(left.iter().map(|path| format!("docs/SUMMARY.md lacks {path}")));
    none(&wrong);
}

/// mdBook has only what is below `docs/`, and docs.rs, which shows the guides, has none of these files.
#[test]
fn files_that_are_not_beside_a_page_are_linked_by_address() {
    let pages = Pages::read();
    let on_docs_rs = included_by("src/_guide.rs");
    let mut wrong = Vec::new();
    for (path, page) in pages.of_the_book() {
        for link in page.links.iter().filter(|link| !link.to.contains(':') && !link.to.starts_with('#')) {
            let target = beside(path, &link.to).unwrap_or_default();
            if on_docs_rs.contains(path) || !target.starts_with("docs/") {
                wrong.push(format!("{path}:{}: write {ADDRESS}{target}", link.line));
            }
        }
    }
    none(&wrong);
}

#[test]
fn rust_code_of_each_page_of_the_book_is_compiled() {
    let pages = Pages::read();
    let compiled = &included_by("src/_guide.rs") | &included_by("src/lib.rs");
    let with_code = pages.of_the_book().filter(|(_, page)| page.has_code).map(|(path, _)| path.to_owned());
    let missing: Vec<_> = with_code.filter(|path| !compiled.contains(path)).collect();
    none(&missing);
}

#[test]
fn the_runbook_has_every_warning_of_the_library() {
    let runbook = fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    let mut missing = Vec::new();
    let mut found = 0;
    for file in files(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "rs") {
        let source = fs::read_to_string(file).unwrap();
        for call in ["tracing::warn!(", "tracing::error!("] {
            for after in source.split(call).skip(1) {
                // The first text in the call. One that goes over two lines ends the first with a backslash.
                let line = after.split('"').nth(1).unwrap().split('\\').map(str::trim_start).collect::<String>();
                let line = line.trim_end_matches("(said once)").trim_end();
                found += 1;
                // What is between braces differs.
                let mut parts = line.split(['{', '}']).step_by(2);
                missing.extend(parts.any(|part| !runbook.contains(part)).then(|| line.to_owned()));
            }
        }
    }
    assert!(found > 15, "the sources were read");
    none(&missing);
}

#[test]
fn anchors_are_those_that_github_makes() {
    let page = Page::parse(
        "# What it *costs*\n\n## 5.1 The first lines, `of` a user\n\n## Twice\n\n## Twice\n\n### A_b: [c](d.md)\n\n```rust,ignore\n# Not this\n```\n",
    );
    let anchors = ["what-it-costs", "51-the-first-lines-of-a-user", "twice", "twice-1", "a_b-c"];
    assert_eq!(page.anchors, BTreeSet::from(anchors.map(str::to_owned)));
    assert_eq!(page.links, [Link { line: 9, to: "d.md".to_owned() }]);
    assert!(!page.has_code);
    assert!(Page::parse("```rust,no_run\n```\n").has_code);
}

#[test]
fn a_link_to_nothing_is_found() {
    let text = "# Top\n\n[there](#top)\n";
    let pages = Pages(BTreeMap::from([("docs/page.md".to_owned(), Page::parse(text))]));
    let of = |to: &str| pages.look_up("docs/page.md", to);
    assert_eq!(of("#top"), Ok(()));
    assert_eq!(of("page.md#top"), Ok(()));
    assert_eq!(of("https://example.com/#none"), Ok(()));
    assert_eq!(of("../README.md"), Ok(()));
    let blob = |to: &str| of(&format!("{ADDRESS}{to}"));
    assert_eq!(blob("docs/page.md#top"), Ok(()));
    assert_eq!(blob("docs/none.md"), Err("is no file"));
    assert_eq!(blob("docs/page.md#none"), Err("has no such anchor"));
    assert_eq!(of("#none"), Err("has no such anchor"));
    assert_eq!(of("none.md"), Err("is no file"));
    assert_eq!(of("../../outside.md"), Err("is outside of the repository"));
    assert_eq!(of(""), Err("leads nowhere"));
}

/// The Markdown files of the repository, by their paths in it.
struct Pages(BTreeMap<String, Page>);

/// What is checked of one file.
#[derive(Default)]
struct Page {
    anchors: BTreeSet<String>,
    links: Vec<Link>,
    /// Whether it has Rust code that is to be compiled.
    has_code: bool,
}

#[derive(Debug, PartialEq)]
struct Link {
    line: usize,
    to: String,
}

impl Pages {
    fn read() -> Self {
        let name = |path: &Path| path.strip_prefix(root()).expect("below it").to_str().expect("plain names").to_owned();
        let page = |path: PathBuf| (name(&path), Page::parse(&fs::read_to_string(path).expect("text")));
        Self(files(root(), "md").into_iter().map(page).collect())
    }

    fn of_the_book(&self) -> impl Iterator<Item = (&str, &Page)> {
        let in_docs = |path: &str| path.starts_with("docs/") && path != "docs/SUMMARY.md";
        self.0.iter().map(|(path, page)| (&**path, page)).filter(move |(path, _)| in_docs(path))
    }

    /// Looks whether what a link of the page at `path` leads to is there.
    fn look_up(&self, path: &str, to: &str) -> Result<(), &'static str> {
        let (path, to) = match to.strip_prefix(ADDRESS) {
            Some(to) => ("README.md", to),
            None if to.contains(':') => return Ok(()),
            None if TEMPLATES.contains(&path) => ("docs/benchmarks.md", to),
            None => (path, to),
        };
        if to.is_empty() {
            // mdBook shows it as a chapter to come.
            return if path == "docs/SUMMARY.md" { Ok(()) } else { Err("leads nowhere") };
        }
        let (file, anchor) = to.split_once('#').map_or((to, None), |(file, anchor)| (file, Some(anchor)));
        let target = match file {
            "" => path.to_owned(),
            _ => beside(path, file).ok_or("is outside of the repository")?,
        };
        match self.0.get(&target) {
            Some(page) if anchor.is_none_or(|anchor| page.anchors.contains(anchor)) => Ok(()),
            Some(_) => Err("has no such anchor"),
            None if anchor.is_some() => Err("is no page with anchors"),
            None if root().join(target).exists() => Ok(()),
            None => Err("is no file"),
        }
    }
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        let mut seen: HashMap<String, usize> = HashMap::new();
        let line = |range: &Range<usize>| 1 + text[..range.start].matches('\n').count();
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(Link { line: line(&range), to: dest_url.into_string() });
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    let mut words = info.split(',').map(str::trim);
                    page.has_code |= words.next() == Some("rust") && words.all(|word| word != "ignore");
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(text) | Event::Code(text) => heading.iter_mut().for_each(|heading| heading.push_str(&text)),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let count = seen.entry(anchor.clone()).or_default();
                    page.anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
                    *count += 1;
                }
                _ => {}
            }
        }
        page
    }
}

/// The files with an extension in a folder and below it, but no symbolic links: they are other names of files that are found.
fn files(folder: PathBuf, extension: &str) -> Vec<PathBuf> {
    let (mut folders, mut found) = (vec![folder], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("known"));
            if kind.is_dir() && !FOREIGN.iter().any(|foreign| entry.file_name() == *foreign) {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The path of `to` as the page at `path` means it, or none if that is outside of the repository.
fn beside(path: &str, to: &str) -> Option<String> {
    let file = to.split('#').next().unwrap_or_default();
    let mut found = PathBuf::from(path);
    found.pop();
    for part in Path::new(file).components() {
        match part {
            Component::ParentDir if !found.pop() => return None,
            Component::ParentDir | Component::CurDir => {}
            Component::Normal(name) => found.push(name),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    found.to_str().map(str::to_owned)
}

/// The pages of the book that a source file of this crate includes.
fn included_by(source: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(source)).expect("text");
    let parts = text.split("include_str!(\"../docs/").skip(1);
    parts.map(|part| format!("docs/{}", part.split('"').next().unwrap_or_default())).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders up").to_owned()
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
