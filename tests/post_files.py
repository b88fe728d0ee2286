"""Files of posts to tag, written and read, for the tests of prediction."""

import json

from smcl.predict.predict_file import predict_file

NUM_POSTS = 23
WORDS = ["joey", "and", "niko", "rest", "after", "wrestling", "in", "verona"]


def run(pipe, source, output, batch_size=4, **options):
    return predict_file(pipe, str(source), str(output), batch_size=batch_size, disable_tqdm=True, **options)


def write_lines(path, rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
