"""`manage.py demo`: from an empty DATA_DIR to a running site with 12 experts and a merge that PEFT has loaded."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from registry.base_models import modules_from_config, register_base_model
from registry.models import BaseModel
from workers.demo import journey
from workers.demo.account import Login, demo_login
from workers.demo.client import Client, DemoError
from workers.demo.site import Site, check_port_is_free, running_site

BASE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
BASE_CONFIG = journey.EXAMPLES / "smollm2-135m-instruct.json"


class Command(BaseCommand):
    help = "Upload the example experts, retrieve, merge, download, ask them with PEFT; then serve the site."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-serve", action="store_true", help="stop after the journey")

    def handle(self, *args: Any, **options: Any) -> None:
        signal.signal(signal.SIGTERM, _interrupt)
        self._folder = settings.DATA_DIR / "demo"
        self._folder.mkdir(exist_ok=True)
        try:
            with ExitStack() as stack:
                site = self._start(stack)
                login = demo_login(self._folder / "login.json", lambda token: _is_valid(site.client(token)))
                self._travel(site.client(login.token), login.user)
                self._say_how_to_log_in(login)
                if not options["no_serve"]:
                    self._say("The site runs until Ctrl-C; later, `make serve` starts it with the same data.")
                    site.wait()
        except DemoError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            self._say("\nStopped.")

    def _start(self, stack: ExitStack) -> Site:
        check_port_is_free()
        with self._step("migrate the database"):
            call_command("migrate", verbosity=0)
        with self._step(f"register {BASE_MODEL}"):
            if not BaseModel.objects.filter(name=BASE_MODEL).exists():
                register_base_model(BASE_MODEL, modules_from_config(BASE_CONFIG))
        with self._step("start the site and a worker"):
            return stack.enter_context(running_site(self._folder / "serve.log"))

    def _travel(self, client: Client, owner: str) -> None:
        with self._step("upload the example experts"):
            jobs = journey.upload_experts(client, owner)
        with self._step("wait for their checks and prototypes"):
            for job in jobs:
                client.wait(job)
        found = {}
        for task in journey.TASKS:
            with self._step(f"retrieve for {journey.item_of(journey.prompt(task))!r}"):
                matches = journey.retrieve(client, owner, task)
            self._say(*(f"    {match['weight']:4.0%}  {match['adapter']}" for match in matches))
            found[task] = matches[0]["adapter"]
        with self._step(f"retrieve for a line each of {' and '.join(journey.MERGED)}"):
            best = journey.soup(client, owner)
        self._say(*(f"    {match['score']:.2f}  {match['adapter']}" for match in best))
        with self._step("merge these experts"):
            merge = journey.merge(client, owner, best)
        with self._step("download the experts and the merge"):
            folders, digests = journey.download(client, found, merge, self._folder)
        with self._step("ask base, experts and merge with PEFT"):
            results, recorded_at = journey.ask(folders, digests, self._folder / "answers.json")
        self._report(results, recorded_at)

    def _report(self, results: list[dict[str, Any]], recorded_at: str | None) -> None:
        if recorded_at:
            record = self._folder / "answers.json"
            self._say(f"    as answered at {recorded_at} by the same weights; remove {record} to ask again")
        for result in results:
            self._say("", *journey.side_by_side(result))
        if missing := journey.shortcomings(results):
            raise DemoError("The demo does not show what it should: " + "; ".join(missing) + ".")

    def _say_how_to_log_in(self, login: Login) -> None:
        password = login.password or "the one you chose (manage.py changepassword demo sets another)"
        self._say("", f"Loradex  {settings.EXTERNAL_URL}/", f"user     {login.user}", f"password {password}")
        self._say(f"token    {login.token}", "")

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.stdout.write(line)
        self.stdout.flush()

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        """A progress line: what is being done, and the seconds it took once it is done."""
        self.stdout.write(f"{what} ... ", ending="")
        self.stdout.flush()
        started = time.monotonic()
        try:
            yield
        except BaseException:
            self._say("failed")
            raise
        self._say(f"{time.monotonic() - started:.1f} s")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _is_valid(client: Client) -> bool:
    return client.answers("/api/v1/jobs/")
