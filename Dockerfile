# docker build -t everclip . && docker run --rm --gpus all -v "$PWD:/work" -v /data:/data everclip method=lora trainer=gpu
FROM python:3.11-slim

# The wheels of torch bring their own CUDA libraries; the host gives the driver.
WORKDIR /opt/everclip
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY conf conf
RUN pip install --no-cache-dir -c constraints.txt '.[video,optuna]'

ENV EVERCLIP_DATA=/data EVERCLIP_CACHE=/work/.cache
WORKDIR /work
ENTRYPOINT ["everclip"]
