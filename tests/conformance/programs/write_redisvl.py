"""Write a file with RedisVL's SemanticRouter; print its routes.

write_redisvl.py FOLDER
"""

import json
import sys
from pathlib import Path

from redisvl.extensions.router import Route, SemanticRouter
from redisvl.utils.vectorize import CustomVectorizer

ROUTES = [
    Route(name="greeting", references=["hello", "hi: there"], metadata={"type": "greeting"}),
    Route(name="прощание", references=["пока", "yes"], distance_threshold=0.3),
]


class Stored(SemanticRouter):
    """A router without a server: what it writes depends on its routes alone."""

    def _initialize_index(self, *arguments, **options):
        self._index = None


def main(folder: Path) -> None:
    vectorizer = CustomVectorizer(embed=lambda text, **options: [1.0, float(len(text))])
    router = Stored("topics", ROUTES, vectorizer, create_index=False)
    router.to_yaml(str(folder / "router.yaml"))
    (folder / "router.json").write_text(json.dumps(router.to_dict()))
    expected = {each.name: each.references for each in ROUTES}
    print(json.dumps({"router.yaml": expected, "router.json": expected}))


main(Path(sys.argv[1]))
