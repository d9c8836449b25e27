//! Compiles `src/jpeg.c` with the headers of libjpeg-turbo, and says whether the compiler optimizes.

fn main() {
    println!("cargo::rerun-if-changed=src/jpeg.c");
    println!("cargo::rerun-if-env-changed=DEP_TURBOJPEG_INCLUDE");
    let headers = std::env::var("DEP_TURBOJPEG_INCLUDE").unwrap_or_default();
    cc::Build::new().file("src/jpeg.c").includes(headers.split(',')).compile("pomona_jpeg");
    // Without optimization, one function with all that a layer inlines needs 4 MB of stack: more than a thread has.
    println!("cargo::rustc-check-cfg=cfg(optimized)");
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level != "0") {
        println!("cargo::rustc-cfg=optimized");
    }
}
