//! The function `query` alone, for `cargo lambda watch`. Lambda runs the program in `functions/lambda`.

#[tokio::main]
async fn main() -> Result<(), lambda_runtime::Error> {
    pomona_query::serve().await
}
