# A server of one model on the CPU:
#
#     docker build --tag smcl .
#     docker run --rm --publish 8000:8000 --volume ./demo/model:/model:ro smcl
#
# torch comes from wherever pip is told to look: its builds for the CPU are smaller, see docs/serve.md.
FROM python:3.12-slim

ARG TORCH=torch==2.13.0
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

RUN python -m pip install --no-cache-dir "$TORCH"
COPY . /src
RUN python -m pip install --no-cache-dir "/src[serve]" && rm -r /src
RUN useradd --create-home smcl

USER smcl
WORKDIR /home/smcl
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz')"]
# As the first process: a stop reaches it, and it answers what is in work.
ENTRYPOINT ["python", "-m", "smcl.predict.serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "/model"]
