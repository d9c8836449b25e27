"""Writes the prices of regions into prices/aws.json, from AWS's published price list files.

    make.py --download FOLDER [REGION ...]     needs the network, about 1 GB per region: EC2 alone has 400 MB
    make.py FOLDER [--date YYYY-MM-DD]         writes prices/aws.json from these files

Without regions, all that have Lambda and Step Functions are downloaded. FOLDER has SERVICE/REGION.json, as AWS publishes them at
https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/SERVICE/current/REGION/index.json. A price is that of the first tier that
costs something: on demand, without the free tier. A price that a file does not have is null, and the estimate then takes that of
us-east-1 and says so. Regions without files keep their row.
"""

import argparse
import datetime
import json
import pathlib
import re
import shutil
import sys
import urllib.request

HOST = "https://pricing.us-east-1.amazonaws.com"
TABLE = pathlib.Path(__file__).with_name("aws.json")
# Field of the table: service, attributes of the product, and units of the price in a unit of the field. A usage type is compared
# without the prefix of its region, as in EUW3-Lambda-GB-Second.
FIELDS = {
    "lambda_arm64_gb_second": ("AWSLambda", {"usagetype": "Lambda-GB-Second-ARM"}, 1),
    "lambda_x86_64_gb_second": ("AWSLambda", {"usagetype": "Lambda-GB-Second"}, 1),
    "lambda_million_requests": ("AWSLambda", {"usagetype": "Request"}, 1e6),
    "states_thousand_transitions": ("AmazonStates", {"usagetype": "StateTransition"}, 1e3),
    "s3_thousand_puts": ("AmazonS3", {"usagetype": "Requests-Tier1"}, 1e3),
    "s3_thousand_gets": ("AmazonS3", {"usagetype": "Requests-Tier2"}, 1e3),
    "s3_gb_month": ("AmazonS3", {"usagetype": "TimedStorage-ByteHrs", "volumeType": "Standard"}, 1),
    "logs_gb": ("AmazonCloudWatch", {"usagetype": "DataProcessing-Bytes"}, 1),
    "metric_month": ("AmazonCloudWatch", {"usagetype": "CW:MetricMonitorUsage"}, 1),
    "alarm_month": ("AmazonCloudWatch", {"usagetype": "CW:AlarmMonitorUsage"}, 1),
    "events_million": ("AWSEvents", {"usagetype": "Event-64K-Chunks"}, 1e6),
    "sqs_million_requests": ("AWSQueueService", {"usagetype": "Requests-Tier1", "queueType": "Standard"}, 1e6),
    "kms_ten_thousand_requests": ("awskms", {"usagetype": "KMS-Requests"}, 1e4),
    "xray_million_traces": ("AWSXRay", {"usagetype": "XRay-TracesStored"}, 1e6),
}
# A machine of a cluster: that of EC2, and EMR's fee for it.
MACHINE = [("AmazonEC2", {"usagetype": "BoxUsage:m5.xlarge", "operatingSystem": "Linux", "preInstalledSw": "NA", "tenancy": "Shared",
                          "capacitystatus": "Used"}),
           ("ElasticMapReduce", {"usagetype": "BoxUsage:m5.xlarge"})]
# Not in the files of a region: dashboards cost the same everywhere, and the rate of a map is a quota.
KEPT = {"dashboard_month": 3.0, "map_children_per_second": None}
SERVICES = sorted({service for service, *_ in [*FIELDS.values(), *MACHINE]})


def is_usage(usage, wanted):
    """Whether a usage type is the wanted one, behind the prefix of a region: EUW3, or eu-west-3. us-east-1 often has none."""
    prefix = usage.removesuffix(wanted)
    return usage == wanted or prefix != usage and re.fullmatch(r"([A-Z]{2,4}[0-9]?|[a-z]{2}(-[a-z]+)+-[0-9])-", prefix) is not None


def price(offer, wanted):
    """Dollars of the only product with these attributes, in its first tier that costs something; None if there is none."""
    found = set()
    for sku, product in offer["products"].items():
        attributes = product.get("attributes", {})
        is_wanted = is_usage(attributes.get("usagetype", ""), wanted["usagetype"])
        if not is_wanted or any(attributes.get(name, value) != value for name, value in wanted.items() if name != "usagetype"):
            continue
        tiers = []
        for term in offer["terms"].get("OnDemand", {}).get(sku, {}).values():
            for tier in term["priceDimensions"].values():
                dollars = float(tier["pricePerUnit"].get("USD", 0))
                if dollars > 0:
                    tiers.append((float(tier["beginRange"] or 0), dollars))
        if tiers:
            found.add(min(tiers)[1])
    if len(found) > 1:
        raise ValueError(f"several prices of {wanted}: {sorted(found)}")
    return found.pop() if found else None


def row(folder, region, before):
    """The prices of a region; those that no file has are as before."""
    offers = {service: json.loads(file.read_text()) for service in SERVICES if (file := folder / service / f"{region}.json").exists()}
    prices = {}
    for field, (service, wanted, units) in FIELDS.items():
        dollars = price(offers[service], wanted) if service in offers else None
        prices[field] = before.get(field) if service not in offers else None if dollars is None else float(f"{dollars * units:.10g}")
    parts = [price(offers[service], wanted) if service in offers else None for service, wanted in MACHINE]
    if any(service in offers for service, _ in MACHINE):
        prices["emr_node_hour"] = None if None in parts else float(f"{sum(parts):.10g}")
    else:
        prices["emr_node_hour"] = before.get("emr_node_hour")
    return prices | {field: before.get(field, value) for field, value in KEPT.items()}


def download(folder, regions):
    def fetch(address, place):
        place.parent.mkdir(parents=True, exist_ok=True)
        print(address, flush=True)
        with urllib.request.urlopen(HOST + address) as answer, open(place, "wb") as file:
            shutil.copyfileobj(answer, file)

    known = {}
    for service in SERVICES:
        fetch(f"/offers/v1.0/aws/{service}/current/region_index.json", folder / service / "regions.json")
        known[service] = json.loads((folder / service / "regions.json").read_text())["regions"]
    for region in regions or sorted(known["AWSLambda"].keys() & known["AmazonStates"].keys()):
        for service in SERVICES:
            if region in known[service]:
                fetch(known[service][region]["currentVersionUrl"], folder / service / f"{region}.json")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("regions", nargs="*")
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    parser.add_argument("--table", type=pathlib.Path, default=TABLE)
    args = parser.parse_args()
    if args.download:
        return download(args.folder, args.regions)
    table = json.loads(args.table.read_text())
    regions = sorted({file.stem for service in SERVICES for file in args.folder.glob(f"{service}/*.json")} - {"regions"})
    if not regions:
        sys.exit(f"{args.folder} has no files SERVICE/REGION.json")
    for region in regions:
        table["regions"][region] = row(args.folder, region, table["regions"].get(region, {}))
    table["date"] = args.date
    args.table.write_text(json.dumps(table, indent=2) + "\n")
    print(f"{args.table.name}: {', '.join(regions)}")


if __name__ == "__main__":
    main()
