//! All functions in one program: one build, one package, one download. The handler of a function names it, as in
//! `Handler: plan`; Lambda passes the name in `_HANDLER`.

#[tokio::main]
async fn main() -> Result<(), lambda_runtime::Error> {
    let handler = std::env::var("_HANDLER").unwrap_or_default();
    match handler.as_str() {
        "plan" => pomona_plan::serve().await,
        "list" => pomona_list::serve().await,
        "featurize" => pomona_featurize::serve().await,
        "reduce" => pomona_reduce::serve().await,
        "project" => pomona_project::serve().await,
        "publish" => pomona_publish::serve().await,
        "trigger" => pomona_trigger::serve().await,
        "vacuum" => pomona_vacuum::serve().await,
        "query" => pomona_query::serve().await,
        _ => Err(format!("the handler {handler:?} is not the name of a function of Pomona").into()),
    }
}
